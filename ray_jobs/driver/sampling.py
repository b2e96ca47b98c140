"""The prompts of a training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.types import Sample


def samples_of_step(
    samples: Sequence[Sample],
    step: int,
    count: int,
    seed: int,
) -> list[Sample]:
    """Return the `count` prompts of a step. They depend on nothing but the arguments.

    Each epoch visits all samples in an order of its own.

    Args:
        samples: All training samples.
        step: The number of the step, from 1.
        count: The number of prompts in a step.
        seed: The seed of the run.
    """
    # A step may span several epochs, and each epoch is permuted once.
    picked: list[Sample] = []
    position = (step - 1) * count
    while len(picked) < count:
        epoch, start = divmod(position + len(picked), len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        missing = count - len(picked)
        for index in order[start : start + missing]:
            picked.append(samples[index])
    return picked
