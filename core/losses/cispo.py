"""CISPO (MiniMax-M1, arXiv 2506.13585, Eq. 4 and 5): the clipped ratio is a weight.

No token loses its gradient. The authors leave the lower bound open (`clip_low=1`) and set the
upper.
"""

from __future__ import annotations

from torch import Tensor

from core.losses.surrogate import Bounds, Surrogate


def loss(
    logprob_N: Tensor,
    old_N: Tensor,
    advantage_N: Tensor,
    episode_N: Tensor,
    bounds: Bounds,
) -> Surrogate:
    """Return -sg(clip(r, 1 - low, 1 + high)) A logprob; sg stops the gradient."""
    ratio_N = (logprob_N - old_N).exp()
    weight_N = ratio_N.clamp(1.0 - bounds.low, 1.0 + bounds.high).detach()
    loss_N = -weight_N * advantage_N * logprob_N
    clipped_N = weight_N != ratio_N.detach()
    return Surrogate(loss_N, ratio_N, clipped_N)
