"""What the losses of this folder share: their bounds, their result, and sums over the tokens of an episode.

N trained tokens of one row. A row holds whole episodes (`core.batch`), so sums over an episode need no other row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """The ratio is held within 1 - low and 1 + high; `dual` bounds it where the advantage is negative (dual_clip)."""

    low: float
    high: float
    dual: float = 3.0


@dataclass(frozen=True)
class Surrogate:
    """`clipped_N`: True where a bound takes the gradient away, or scales it down (cispo)."""

    loss_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor


# (logprob_N, old_N, advantage_N, episode_N, bounds): `episode_N` (int64) tells which tokens are of one episode
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Bounds], Surrogate]


def episode_sum(x_N: Tensor, episode_N: Tensor) -> Tensor:
    """For each token the sum of x over its episode; differentiable in x."""
    numbers_E, place_N = episode_N.unique(return_inverse=True)
    return x_N.new_zeros(len(numbers_E)).index_add(0, place_N, x_N)[place_N]


def episode_mean(x_N: Tensor, episode_N: Tensor) -> Tensor:
    """For each token the mean of x over its episode; differentiable in x."""
    return episode_sum(x_N, episode_N) / episode_sum(x_N.detach().new_ones(len(x_N)), episode_N)
