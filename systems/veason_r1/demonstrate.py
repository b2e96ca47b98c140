"""Ideal answers of Veason-R1, from the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.geometry import Grid
from core.masks import boxes_areas
from core.types import Sample
from systems.base import thought_of, whole_numbers
from systems.veason_r1.answers import Form, write_answer
from systems.veason_r1.score import true_boxes


def ideal_answer(
    sample: Sample,
    frames: Sequence[int],
    grid: Grid,
    form: Form,
    rng: np.random.Generator,
) -> str:
    """Return an answer that locates the targets in any shown frame in which one is visible.

    Which of these frames is best is left to reinforcement learning.

    Raises:
        ValueError: the targets are in none of the shown frames.
    """
    _, areas_F = boxes_areas(sample)
    visible = [place for place, frame in enumerate(frames) if areas_F[frame] > 0]
    if not visible:
        raise ValueError(
            f"sample {sample.uid!r}: no target in any of the {len(frames)} shown frames"
        )
    place = int(rng.choice(visible))
    truth = true_boxes(sample, frames[place], grid.hw).tolist()
    boxes = [whole_numbers(grid, box) for box in truth]
    return f"<think>{thought_of(sample)}</think>{write_answer(place, boxes, form)}"
