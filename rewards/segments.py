"""Rewards for masks of the turns of an episode. Pure functions of tensors; they know no text.

Letters: N masks, G episodes, T turns, F the frames that a turn's masks are judged on besides its keyframe.
Source: the released code of VideoSEG-O3 (SPEC B.4). Modes: `as_released` is what the code does, `as_intended` what
its doc-strings say.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["as_released", "as_intended"]


def mask_iou(masks_NHW: Tensor, truth_NHW: Tensor, empty: float | Tensor) -> Tensor:
    """Intersection over union of pairs of masks (bool), float64 (N,); `empty` where both are empty.

    The release takes 1 for the frames of a video and 0 for a keyframe.
    """
    shared_N = (masks_NHW & truth_NHW).sum(dim=(1, 2)).double()
    either_N = (masks_NHW | truth_NHW).sum(dim=(1, 2)).double()
    return torch.where(
        either_N > 0, shared_N / either_N.clamp(min=1), torch.as_tensor(empty).double()
    )


def iou_reward(iou_GF: Tensor) -> Tensor:
    """`lr_maskiou_dense`: mean over the frames of g(IoU), float64 (G,) in [-1, 1.5].

        g(x) = min(3 (x - .4), 1.5) if x > .4;   0 if .2 < x <= .4;   -1 otherwise

    iou_GF: of the last turn's masks, 0 where there is none. At x = .4 the two sides meet.
    """
    x_GF = iou_GF.double()
    g_GF = torch.where(
        x_GF > 0.4, (3 * (x_GF - 0.4)).clamp(max=1.5), torch.where(x_GF > 0.2, 0.0, -1.0)
    )
    return g_GF.mean(dim=1)


def gain_over_video(key_G: Tensor, video_G: Tensor, turns_G: Tensor, mode: Mode) -> Tensor:
    """`lr_keyframe_vs_mask_dense`: how much better the last keyframe's mask is than those of the whole video.

        d = IoU of the last keyframe - mean IoU of the last turn's other frames
        d > .2: min(5 (d - .1), 2);   d > .1: .5;   d > -.05: 0;   else -1             (as_intended)

    float64 (G,); 0 for an episode of one turn. as_released: an `if` that should be `elif` overwrites the first line,
    so that .5 is earned by every d > .1.
    """
    return _ladder(
        key_G.double() - video_G.double(), turns_G, upper=0.2, slope=5, middle=0.1, mode=mode
    )


def gain_over_turns(key_GT: Tensor, turns_G: Tensor, mode: Mode) -> Tensor:
    """`lr_progressive_keyframe_dense`: how much better the last keyframe's mask is than the best before it.

        d = IoU of the last keyframe - largest IoU of an earlier turn's
        d > .1: min(10 (d - .05), 2);   d > .05: .5;   d > -.05: 0;   else -1          (as_intended)

    key_GT: IoU of each turn's keyframe, 0 where a turn has no mask; columns from turns_G on are not looked at.
    float64 (G,); 0 for an episode of one turn. as_released: the slip of `gain_over_video`.
    """
    key_GT = key_GT.double()
    place_T = torch.arange(key_GT.shape[1], device=key_GT.device)
    last_G = key_GT.gather(1, (turns_G - 1)[:, None])[:, 0]
    earlier_GT = torch.where(place_T < turns_G[:, None] - 1, key_GT, -torch.inf)
    gain_G = torch.where(turns_G > 1, last_G - earlier_GT.amax(dim=1), 0.0)
    return _ladder(gain_G, turns_G, upper=0.1, slope=10, middle=0.05, mode=mode)


def _ladder(
    gain_G: Tensor, turns_G: Tensor, *, upper: float, slope: float, middle: float, mode: Mode
) -> Tensor:
    top_G = (slope * (gain_G - middle)).clamp(max=2)
    reward_G = torch.where(gain_G > middle, 0.5, torch.where(gain_G > -0.05, 0.0, -1.0)).double()
    if mode == "as_intended":
        reward_G = torch.where(gain_G > upper, top_G, reward_G)
    return torch.where(turns_G > 1, reward_G, 0.0)
