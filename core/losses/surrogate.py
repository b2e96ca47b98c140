"""The common parts of the losses: bounds, result, and sums over the tokens of an episode.

N counts the trained tokens of one row. A row holds whole episodes (`core.batch`), so a sum over an
episode needs no other row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ClipBounds:
    """Limits of the ratio.

    Attributes:
        low: the ratio is held above 1 - low.
        high: the ratio is held below 1 + high.
        dual: largest ratio for a negative advantage (dual_clip).
    """

    low: float
    high: float
    dual: float = 3.0


@dataclass(frozen=True)
class Surrogate:
    """The result of a loss.

    Attributes:
        loss_N: loss of each token.
        ratio_N: its ratio of new to old likelihood.
        clipped_N: True if a bound takes the gradient away, or scales it down (cispo).
    """

    loss_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor


# (logprob_N, old_N, advantage_N, episode_N, bounds); `episode_N` is the int64 number of each
# token's episode.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, ClipBounds], Surrogate]


def episode_sum(x_N: Tensor, episode_N: Tensor) -> Tensor:
    """Return for each token the sum of x over its episode; differentiable in x."""
    numbers_E, index_N = episode_N.unique(return_inverse=True)
    sums_E = x_N.new_zeros(len(numbers_E)).index_add(0, index_N, x_N)
    return sums_E[index_N]


def episode_mean(x_N: Tensor, episode_N: Tensor) -> Tensor:
    """Return for each token the mean of x over its episode; differentiable in x."""
    ones_N = x_N.detach().new_ones(len(x_N))
    return episode_sum(x_N, episode_N) / episode_sum(ones_N, episode_N)
