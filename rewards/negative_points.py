"""Reward for points that should lie close to the objects but not on them. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def taxicab_distance(mask_HW: Tensor) -> Tensor:
    """L1 distance of every pixel to the nearest foreground pixel, int32 (..., H, W); 0 on the foreground.

    Exact: |dx| + |dy| splits into rows and columns, and along each the nearest value is a running minimum both ways.
    With no foreground at all every distance is at least H + W. Leading dimensions are a batch; any device. One mask on
    a CPU goes to OpenCV, whose L1 transform is the same and five times faster there.
    """
    if (
        mask_HW.device.type == "cpu" and mask_HW.ndim == 2 and mask_HW.numpy().any()
    ):  # numpy's stops at the first
        off_HW = (~mask_HW).numpy().view(np.uint8)
        return torch.from_numpy(cv2.distanceTransform(off_HW, cv2.DIST_L1, 3)).to(torch.int32)
    height, width = mask_HW.shape[-2:]
    distance = torch.where(mask_HW, 0, height + width).to(torch.int32)
    for dim, size in ((-1, width), (-2, height)):
        at = torch.arange(size, dtype=torch.int32, device=mask_HW.device)
        at = at if dim == -1 else at[:, None]
        before = (distance - at).cummin(dim).values + at
        after = (distance + at).flip(dim).cummin(dim).values.flip(dim) - at
        distance = torch.minimum(before, after)
    return distance


def negative_points(
    points_R2: Tensor, counts_G: Sequence[int], distance_HW: Tensor, limit: float = 40.0
) -> Tensor:
    """Share of an episode's negative points that lie off all objects and within `limit` of one. Float64 (G,).

        r = 1/K sum_k 1[0 < d(p_k) <= limit]              d: taxicab distance to the union of all true masks

    points_R2: (x, y) in pixels of the image, those of all episodes one after the other; counts_G: K of each. A point
    counts as the pixel that holds it; one outside the image earns 0, and so does an episode without points.
    distance_HW: `taxicab_distance` of the union mask; without any object nothing is within the limit (< H + W).

    Source: VideoSeg-R1's negative-point reward, limit 40 pixels at 840 x 840.
    """
    counts = torch.tensor(list(counts_G), device=points_R2.device)
    assert int(counts.sum()) == len(points_R2), (
        f"{len(points_R2)} points for counts {list(counts_G)}"
    )
    height, width = distance_HW.shape
    assert limit < height + width, "an empty mask would count as near"
    x_R, y_R = points_R2.double().floor().unbind(dim=1)
    seen_R = (x_R >= 0) & (x_R < width) & (y_R >= 0) & (y_R < height)
    at_R = distance_HW[y_R.clamp(0, height - 1).long(), x_R.clamp(0, width - 1).long()]
    good_R = (seen_R & (at_R > 0) & (at_R <= limit)).double()
    episode_R = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    sums_G = torch.zeros(len(counts), dtype=torch.float64, device=counts.device).index_add_(
        0, episode_R, good_R
    )
    return sums_G / counts.clamp(min=1)
