"""Training on several data sets at once: how often each is drawn, and which sample a step draws.

    weights_D = by_temperature([5000, 200], temperature=0.5)      # or shares([3, 1])
    draws(step, count, sizes, weights_D, seed)                    # [(data set, sample), ...] of one step

The draws of a step follow from the seed and the step's number alone, so a run that was killed goes on with the very
samples it would have had. This file knows numbers, no data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shares(weights: Sequence[float]) -> np.ndarray:
    """Weights as probabilities, float64 (D,); ValueError unless all are finite, none is negative and one positive."""
    weights_D = np.asarray(weights, dtype=np.float64)
    if (
        weights_D.ndim != 1
        or not len(weights_D)
        or not np.isfinite(weights_D).all()
        or (weights_D < 0).any()
    ):
        raise ValueError(
            f"mixing weights {list(weights)}: one finite number of at least 0 for each data set is needed"
        )
    if not weights_D.sum() > 0:
        raise ValueError(f"mixing weights {list(weights)}: at least one must be positive")
    return weights_D / weights_D.sum()


def by_temperature(sizes: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    """Probabilities proportional to size ** (1 / temperature), float64 (D,): XLM-R's and mT5's rule.

    1: every sample of all data sets is equally likely. Larger: small data sets are drawn more often than their size
    says, up to equal shares at infinity. ValueError for a temperature that is not positive and for an empty data set.
    """
    if not temperature > 0:
        raise ValueError(
            f"mixing temperature {temperature}: must be positive (1: by size; inf: equal shares)"
        )
    if not len(sizes) or min(sizes) <= 0:
        raise ValueError(f"data sets of {list(sizes)} samples: each needs at least one to be mixed")
    logs_D = np.log(np.asarray(sizes, dtype=np.float64)) / temperature
    return shares(list(np.exp(logs_D - logs_D.max())))


def epochs_of(num_draws: int, sizes: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """How many times each data set is gone through in `num_draws` draws, on average, float64 (D,)."""
    return num_draws * shares(weights) / np.asarray(sizes, dtype=np.float64)


def draws(
    step: int, count: int, sizes: Sequence[int], weights: Sequence[float], seed: int
) -> list[tuple[int, int]]:
    """The (data set, sample) pairs of step `step` (from 1).

    Each draw picks a data set by its weight, independently; within a data set samples come in shuffled epochs, so none
    comes twice before all came once. Takes microseconds for each thousand draws before this step.
    """
    weights_D = shares(weights)
    stop = step * count
    assert len(sizes) == len(weights_D), "one weight for each data set"
    if any(w > 0 and size <= 0 for w, size in zip(weights_D, sizes, strict=True)):
        raise ValueError(
            f"data sets of {list(sizes)} samples with weights {list(weights)}: an empty one has a weight"
        )
    # A generator's first draws do not depend on how many are taken, so this is a prefix of any later step's.
    uniform_N = np.random.default_rng([seed, 0]).random(stop)
    bounds_D = np.cumsum(weights_D) / weights_D.sum()
    bounds_D[np.flatnonzero(weights_D)[-1] :] = (
        np.inf
    )  # rounding must not reach a data set of weight 0
    sets_N = np.searchsorted(bounds_D, uniform_N, side="right")
    first = stop - count
    seen = np.bincount(sets_N[:first], minlength=len(sizes)).tolist()
    picked = []
    for data_set in sets_N[first:].tolist():
        picked.append((data_set, _nth(seen[data_set], sizes[data_set], seed, data_set)))
        seen[data_set] += 1
    return picked


def _nth(position: int, size: int, seed: int, data_set: int) -> int:
    epoch, place = divmod(position, size)
    return int(np.random.default_rng([seed, 1, data_set, epoch]).permutation(size)[place])
