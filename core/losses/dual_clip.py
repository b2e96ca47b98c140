"""Dual clip (Ye et al. 2020, "Mastering Complex Control in MOBA Games", arXiv 1912.09729).

The clipped surrogate leaves a large ratio with a negative advantage unbounded; dual clip bounds it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.losses import grpo
from core.losses.surrogate import ClipBounds, Surrogate


def loss(
    logprob_N: Tensor,
    old_N: Tensor,
    advantage_N: Tensor,
    episode_N: Tensor,
    bounds: ClipBounds,
) -> Surrogate:
    """Return -max(min(r A, clip(r) A), dual A) where A < 0, else the clipped surrogate."""
    clipped = grpo.loss(logprob_N, old_N, advantage_N, episode_N, bounds)
    ceiling_N = -bounds.dual * advantage_N
    over_N = (advantage_N < 0) & (clipped.loss_N > ceiling_N)
    loss_N = torch.where(over_N, ceiling_N, clipped.loss_N)
    return Surrogate(loss_N, clipped.ratio_N, clipped.clipped_N | over_N)
