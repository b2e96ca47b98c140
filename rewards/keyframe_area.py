"""A reward for the choice of a keyframe: how large the targets are in it."""

from __future__ import annotations

import torch
from torch import Tensor


def keyframe_area(frames_G: Tensor, areas_F: Tensor) -> Tensor:
    """Return the area of the targets' mask in the keyframe, over its largest in the video.

        r_k = area(mask_k) / max_t area(mask_t)

    Source: Veason-R1 (docs/spec/veason_r1.md, Rewards).

    Args:
        frames_G: frame number of each keyframe, -1 where none was chosen (reward 0).
        areas_F: pixels of the mask in each frame of the video.

    Returns:
        float64 (G,) in [0, 1]; all 0 if the targets are in no frame.
    """
    largest = areas_F.max().clamp(min=1)
    share_F = areas_F.double() / largest
    return torch.where(frames_G >= 0, share_F[frames_G.clamp(min=0)], 0.0)
