"""How often each of several data sets is picked when training mixes them.

    weights_D = by_temperature([5000, 200], temperature=0.5)
    weights_D = shares([3, 1])

D is the number of data sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shares(weights: Sequence[float]) -> np.ndarray:
    """Return weights as probabilities, float64 (D,).

    Raises:
        ValueError: A weight is negative or not finite, or none is positive.
    """
    weights_D = np.asarray(weights, dtype=np.float64)
    is_row = weights_D.ndim == 1 and len(weights_D) > 0
    if not is_row or not np.isfinite(weights_D).all() or (weights_D < 0).any():
        raise ValueError(
            f"mixing weights {list(weights)}: one finite number of at least 0 for each data set is "
            "needed"
        )
    if not weights_D.sum() > 0:
        raise ValueError(f"mixing weights {list(weights)}: at least one must be positive")
    return weights_D / weights_D.sum()


def by_temperature(sizes: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    """Return probabilities proportional to size ** (1 / temperature), float64 (D,).

    This is the rule of XLM-R and mT5. At temperature 1 every sample of all data sets is equally
    likely. Larger temperatures favour small data sets, up to equal shares at infinity.

    Raises:
        ValueError: The temperature is not positive, or a data set is empty.
    """
    if not temperature > 0:
        raise ValueError(
            f"mixing temperature {temperature}: must be positive (1: by size; inf: equal shares)"
        )
    if not len(sizes) or min(sizes) <= 0:
        raise ValueError(f"data sets of {list(sizes)} samples: each needs at least one to be mixed")

    logs_D = np.log(np.asarray(sizes, dtype=np.float64)) / temperature
    # The largest becomes exp(0), so that a small temperature does not overflow.
    return shares(list(np.exp(logs_D - logs_D.max())))


def epochs_of(num_draws: int, sizes: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """Return how often `num_draws` draws go through each data set on average, float64 (D,)."""
    return num_draws * shares(weights) / np.asarray(sizes, dtype=np.float64)
