"""Rewards of VideoSEG-O3 for the masks of an episode's turns.

Source: the released code (docs/spec/videoseg_o3.md, Rewards).

Letters: G episodes, T turns, F the judged frames of a turn besides its keyframe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewards.reward_mode import RewardMode


def iou_reward(iou_GF: Tensor) -> Tensor:
    """Return `lr_maskiou_dense`, the mean over the frames of g(IoU); float64 (G,) in [-1, 1.5].

        g(x) = min(3 (x - .4), 1.5) if x > .4;   0 if .2 < x <= .4;   -1 otherwise

    At x = .4 the two sides meet.

    Args:
        iou_GF: IoU of the last turn's masks, 0 without a mask.
    """
    x_GF = iou_GF.double()
    low_GF = torch.where(x_GF > 0.2, 0.0, -1.0)
    high_GF = (3 * (x_GF - 0.4)).clamp(max=1.5)
    g_GF = torch.where(x_GF > 0.4, high_GF, low_GF)
    return g_GF.mean(dim=1)


def gain_over_video(key_G: Tensor, video_G: Tensor, turns_G: Tensor, mode: RewardMode) -> Tensor:
    """Return `lr_keyframe_vs_mask_dense`, the lead of the last keyframe's mask over the video's.

        d = IoU of the last keyframe - mean IoU of the last turn's other frames
        d > .2: min(5 (d - .1), 2);   d > .1: .5;   d > -.05: 0;   else -1             (as_intended)

    Float64 (G,); 0 for an episode of one turn. as_released: an `if` in the place of an `elif`
    overwrites the first line, so every d > .1 earns .5.
    """
    gain_G = key_G.double() - video_G.double()
    return _ladder(gain_G, turns_G, upper=0.2, slope=5, middle=0.1, mode=mode)


def gain_over_turns(key_GT: Tensor, turns_G: Tensor, mode: RewardMode) -> Tensor:
    """Return `lr_progressive_keyframe_dense`, the last keyframe's lead over the best one before it.

        d = IoU of the last keyframe - largest IoU of an earlier turn's
        d > .1: min(10 (d - .05), 2);   d > .05: .5;   d > -.05: 0;   else -1          (as_intended)

    Float64 (G,); 0 for an episode of one turn. as_released: the same slip as in `gain_over_video`.

    Args:
        key_GT: IoU of each turn's keyframe, 0 for a turn without a mask; columns from turns_G on
            are not read.
        turns_G: number of turns of each episode.
    """
    key_GT = key_GT.double()
    last_G = key_GT.gather(1, (turns_G - 1)[:, None])[:, 0]
    turn_T = torch.arange(key_GT.shape[1], device=key_GT.device)
    is_earlier_GT = turn_T < turns_G[:, None] - 1
    earlier_GT = torch.where(is_earlier_GT, key_GT, -torch.inf)
    gain_G = torch.where(turns_G > 1, last_G - earlier_GT.amax(dim=1), 0.0)
    return _ladder(gain_G, turns_G, upper=0.1, slope=10, middle=0.05, mode=mode)


def _ladder(
    gain_G: Tensor,
    turns_G: Tensor,
    *,
    upper: float,
    slope: float,
    middle: float,
    mode: RewardMode,
) -> Tensor:
    low_G = torch.where(gain_G > -0.05, 0.0, -1.0)
    reward_G = torch.where(gain_G > middle, 0.5, low_G).double()
    if mode == "as_intended":
        top_G = (slope * (gain_G - middle)).clamp(max=2)
        reward_G = torch.where(gain_G > upper, top_G, reward_G)
    return torch.where(turns_G > 1, reward_G, 0.0)
