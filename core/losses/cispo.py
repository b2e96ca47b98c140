"""CISPO (MiniMax-M1, arXiv 2506.13585, Eq. 4 and 5): the clipped ratio is a weight.

No token loses its gradient. The authors set the upper bound alone (`clip_low=1` is no lower bound).
"""

from __future__ import annotations

from torch import Tensor

from core.losses.surrogate import ClipBounds, Surrogate


def loss(
    logprob_N: Tensor,
    old_N: Tensor,
    advantage_N: Tensor,
    episode_N: Tensor,
    bounds: ClipBounds,
) -> Surrogate:
    """Return -sg(clip(r, 1 - low, 1 + high)) A logprob; sg stops the gradient."""
    ratio_N = (logprob_N - old_N).exp()
    weight_N = ratio_N.clamp(1.0 - bounds.low, 1.0 + bounds.high).detach()
    loss_N = -weight_N * advantage_N * logprob_N
    clipped_N = weight_N != ratio_N.detach()
    return Surrogate(loss_N, ratio_N, clipped_N)
