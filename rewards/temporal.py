"""Rewards of ReVSeg for the choice of a keyframe among the sampled frames."""

from __future__ import annotations

import torch
from torch import Tensor


def keyframe_size(frames_G: Tensor, visible_F: Tensor, sizes_F: Tensor) -> Tensor:
    """Return the target's relative size in the chosen frame; float64 (G,) in [0, 1].

        r_t = 1[visible_k] * (S_k - min_t S_t) / (max_t S_t - min_t S_t)            (ReVSeg, Eq. 7)

    The minimum runs over *all* sampled frames: if the target is always visible, its smallest frame
    earns 0. If all sizes are equal, Eq. 7 divides by zero; a visible frame then earns 1, chosen by
    this project.

    Args:
        frames_G: index k into the F sampled frames, -1 without a choice (reward 0).
        visible_F: True for a frame with the target.
        sizes_F: S, area of the target's box in any unit, 0 without the target.
    """
    sizes_F = sizes_F.double()
    low = sizes_F.min()
    spread = sizes_F.max() - low
    # The smallest positive number only keeps the unused branch free of nan.
    divisor = spread.clamp(min=torch.finfo(sizes_F.dtype).tiny)
    share_F = torch.where(spread > 0, (sizes_F - low) / divisor, 1.0)
    return _at_frames(share_F * visible_F, frames_G)


def keyframe_visible(frames_G: Tensor, visible_F: Tensor) -> Tensor:
    """Return 1 for a chosen frame with the target, else 0; float64 (G,).

    The binary ablation of ReVSeg (Tab. 7). Arguments as in `keyframe_size`.
    """
    return _at_frames(visible_F.double(), frames_G)


def _at_frames(reward_F: Tensor, frames_G: Tensor) -> Tensor:
    """Reward of each chosen frame, 0 for -1."""
    inside = bool((frames_G < len(reward_F)).all())
    assert inside, f"frame index beyond {len(reward_F)} sampled frames: {frames_G}"
    return torch.where(frames_G >= 0, reward_F[frames_G.clamp(min=0)], 0.0)
