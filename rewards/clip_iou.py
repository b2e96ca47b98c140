"""A reward for masks of a whole video: their mean IoU with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewards.iou import mask_iou

Mask = np.ndarray | None


def clip_iou(masks_GF: Sequence[Sequence[Mask]], truth_F: Sequence[Mask]) -> Tensor:
    """Return the mean IoU of each episode's masks over the frames of the video.

    Frames without a mask on either side do not count: an answer earns nothing for frames without
    anything to find. If that leaves no frame, the result is 1.

    Source: Veason-R1 (docs/spec/veason_r1.md, Rewards).

    Args:
        masks_GF: bool (H, W) for each episode and frame; None is an empty mask.
        truth_F: the true mask of each frame; None where it is empty.

    Returns:
        float64 (G,) in [0, 1].
    """
    means_G = [_mean_iou(masks_F, truth_F) for masks_F in masks_GF]
    return torch.tensor(means_G, dtype=torch.float64)


def _mean_iou(masks_F: Sequence[Mask], truth_F: Sequence[Mask]) -> float:
    frames = 0
    masks = []
    truths = []
    for mask_HW, truth_HW in zip(masks_F, truth_F, strict=True):
        if mask_HW is None and truth_HW is None:
            continue
        frames += 1
        # A frame with a mask on one side alone has IoU 0.
        if mask_HW is not None and truth_HW is not None:
            masks.append(mask_HW)
            truths.append(truth_HW)
    if not frames:
        return 1.0
    if not masks:
        return 0.0
    masks_NHW = torch.tensor(np.stack(masks))
    truth_NHW = torch.tensor(np.stack(truths))
    ious_N = mask_iou(masks_NHW, truth_NHW, empty=0.0)
    return ious_N.sum().item() / frames
