"""Rewards for the choice of a keyframe among the sampled frames. Pure functions of tensors; they know no video."""

from __future__ import annotations

import torch
from torch import Tensor


def keyframe_size(frames_G: Tensor, visible_F: Tensor, sizes_F: Tensor) -> Tensor:
    """How large the target stands in the chosen frame, between its smallest and its largest sampled frame.

        r_t = 1[visible_k] * (S_k - min_t S_t) / (max_t S_t - min_t S_t)            (ReVSeg, Eq. 7)

    frames_G: index k into the F sampled frames, -1 where none was chosen (reward 0).
    visible_F: whether the target's mask in a sampled frame is not empty.
    sizes_F: S, the area of the target's box in each sampled frame, 0 where it is not visible; any unit.
    Returns float64 of shape (G,) in [0, 1].

    The minimum runs over *all* sampled frames, so the smallest visible frame earns 0 where the target is visible in
    all of them. Where all sizes are the same Eq. 7 divides by zero: ours is 1 for a visible frame.
    """
    sizes_F = sizes_F.double()
    low = sizes_F.min()
    high = sizes_F.max()
    spread = high - low
    share_F = torch.where(
        spread > 0, (sizes_F - low) / spread.clamp(min=torch.finfo(sizes_F.dtype).tiny), 1.0
    )
    return _choose(share_F * visible_F, frames_G)


def keyframe_visible(frames_G: Tensor, visible_F: Tensor) -> Tensor:
    """1 where the target is visible in the chosen frame, else 0: the binary ablation of ReVSeg (Tab. 7).

    Arguments and result as in `keyframe_size`.
    """
    return _choose(visible_F.double(), frames_G)


def _choose(reward_F: Tensor, frames_G: Tensor) -> Tensor:
    assert bool((frames_G < len(reward_F)).all()), (
        f"frame index beyond {len(reward_F)} sampled frames: {frames_G}"
    )
    return torch.where(frames_G >= 0, reward_F[frames_G.clamp(min=0)], 0.0)
