"""Clipped surrogate: GRPO (arXiv 2402.03300, Eq. 3) with DAPO's two bounds (arXiv 2503.14476)."""

from __future__ import annotations

import torch
from torch import Tensor

from core.losses.surrogate import ClipBounds, Surrogate


def loss(
    logprob_N: Tensor,
    old_N: Tensor,
    advantage_N: Tensor,
    episode_N: Tensor,
    bounds: ClipBounds,
) -> Surrogate:
    """Return -min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(logprob - old) (PPO, Eq. 7)."""
    ratio_N = (logprob_N - old_N).exp()
    free_N = ratio_N * advantage_N
    bound_N = ratio_N.clamp(1.0 - bounds.low, 1.0 + bounds.high) * advantage_N
    loss_N = -torch.minimum(free_N, bound_N)
    clipped_N = (bound_N < free_N).detach()
    return Surrogate(loss_N, ratio_N, clipped_N)
