"""Reward of VideoSeg-R1 for points close to the objects but not on them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def taxicab_distance(mask_HW: Tensor) -> Tensor:
    """Return the L1 distance of every pixel to the nearest foreground pixel, int32 (..., H, W).

    Exact: |dx| + |dy| splits into rows and columns, and along each of them the nearest value is a
    running minimum in both directions. With no foreground at all every distance is at least H + W.

    Leading dimensions are a batch, on any device. A single mask on a CPU goes to OpenCV: its L1
    transform gives the same numbers five times faster.
    """
    # numpy's any() stops at the first foreground pixel.
    if mask_HW.device.type == "cpu" and mask_HW.ndim == 2 and mask_HW.numpy().any():
        background_HW = (~mask_HW).numpy().view(np.uint8)
        distance_HW = cv2.distanceTransform(background_HW, cv2.DIST_L1, 3)
        return torch.from_numpy(distance_HW).to(torch.int32)

    height, width = mask_HW.shape[-2:]
    distance = torch.where(mask_HW, 0, height + width).to(torch.int32)
    columns_W = torch.arange(width, dtype=torch.int32, device=mask_HW.device)
    rows_H1 = torch.arange(height, dtype=torch.int32, device=mask_HW.device)[:, None]
    for dim, place in ((-1, columns_W), (-2, rows_H1)):
        before = (distance - place).cummin(dim).values + place
        after = (distance + place).flip(dim).cummin(dim).values.flip(dim) - place
        distance = torch.minimum(before, after)
    return distance


def negative_points(
    points_R2: Tensor,
    counts_G: Sequence[int],
    distance_HW: Tensor,
    limit: float = 40.0,
) -> Tensor:
    """Return the share of points off all objects but within `limit` of one; float64 (G,).

        r = 1/K sum_k 1[0 < d(p_k) <= limit]

    d is the taxicab distance to the union of all true masks. A point counts as its pixel. A point
    outside the image earns 0, and so does an episode without points.

    Source: VideoSeg-R1's negative-point reward, with a limit of 40 pixels at 840 x 840
    (docs/spec/videoseg_r1.md, Rewards).

    Args:
        points_R2: (x, y) in pixels of the image; those of all episodes, one after the other.
        counts_G: number of points of each episode (K).
        distance_HW: `taxicab_distance` of the union mask. Without any object no point is near.
        limit: pixels, less than H + W.
    """
    counts = torch.tensor(list(counts_G), device=points_R2.device)
    total = int(counts.sum())
    assert total == len(points_R2), f"{len(points_R2)} points for counts {list(counts_G)}"
    assert limit < sum(distance_HW.shape), "an empty mask would count as near"
    good_R = _is_near(points_R2, distance_HW, limit).double()

    episodes_G = torch.arange(len(counts), device=counts.device)
    episode_R = torch.repeat_interleave(episodes_G, counts)
    zeros_G = torch.zeros(len(counts), dtype=torch.float64, device=counts.device)
    sums_G = zeros_G.index_add_(0, episode_R, good_R)
    return sums_G / counts.clamp(min=1)


def _is_near(points_R2: Tensor, distance_HW: Tensor, limit: float) -> Tensor:
    """Whether each point is inside the image and 0 < d <= limit, bool (R,)."""
    height, width = distance_HW.shape
    x_R, y_R = points_R2.double().floor().unbind(dim=1)
    inside_R = (x_R >= 0) & (x_R < width) & (y_R >= 0) & (y_R < height)
    row_R = y_R.clamp(0, height - 1).long()
    column_R = x_R.clamp(0, width - 1).long()
    distance_R = distance_HW[row_R, column_R]
    return inside_R & (distance_R > 0) & (distance_R <= limit)
