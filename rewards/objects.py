"""Rewards for several objects given as boxes and points against several true ones, matched one to one.

Boxes are (x0, y0, x1, y1) with x1 and y1 *inside* the box, in pixels of the image that the answer is about. All
thresholds are pixels of that image and mean what they mean at a fixed size (the papers: 840 x 840).
Letters: R rows of predicted objects (those of all episodes of a group, one after the other), N true objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Thresholds:
    """When a pair of objects counts as the same, each strictly; VisionReasoner's numbers for 840 x 840."""

    iou: float = 0.5  # above
    box_l1: float = 10.0  # below, pixels
    point: float = 30.0  # below, pixels


def inclusive_iou(boxes_R4: Tensor, truth_N4: Tensor) -> Tensor:
    """Intersection over union where the last row and column belong to the box, float64 (R, N).

        width = x1 - x0 + 1, height = y1 - y0 + 1, also of the intersection, cut off at 0 there alone

    Source: VisionReasoner. A box of one point has area 1. The sides of a reversed box keep their sign, as published:
    the union can be 0 or below, and what comes out negative or not a number is no hit.
    """
    a, b = boxes_R4.double()[:, None], truth_N4.double()[None]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1
    shared_RN = sides.clamp(min=0).prod(dim=-1)
    return shared_RN / (_area(a) + _area(b) - shared_RN)


def mask_ious(masks_R: Sequence[np.ndarray | None], truth_NHW: Tensor) -> Tensor:
    """Intersection over union of every pair of masks, float64 (R, N); 0 for a mask that was not made (None).

    One predicted mask (bool (H, W)) at a time: the hundreds that a bad answer may list would not fit on the device.
    """
    rows = []
    for mask in masks_R:
        mask_HW = torch.zeros_like(truth_NHW[0]) if mask is None else torch.tensor(mask, device=truth_NHW.device)
        either_N = (mask_HW | truth_NHW).sum(dim=(1, 2)).clamp(min=1)
        rows.append((mask_HW & truth_NHW).sum(dim=(1, 2)).double() / either_N)
    return torch.stack(rows) if rows else torch.zeros((0, len(truth_NHW)), dtype=torch.float64)


def box_l1(boxes_R4: Tensor, truth_N4: Tensor) -> Tensor:
    """Mean absolute difference of the four coordinates, pixels, float64 (R, N)."""
    return (boxes_R4.double()[:, None] - truth_N4.double()[None]).abs().mean(dim=-1)


def point_distance(points_R2: Tensor, truth_N2: Tensor) -> Tensor:
    """Euclidean distance, pixels, float64 (R, N). The papers call it L1; the published definition is this one."""
    return (points_R2.double()[:, None] - truth_N2.double()[None]).square().sum(dim=-1).sqrt()


def inside_own_box(points_R2: Tensor, boxes_R4: Tensor) -> Tensor:
    """Whether each point lies in its own box, edges included, bool (R,)."""
    return ((points_R2 >= boxes_R4[:, :2]) & (points_R2 <= boxes_R4[:, 2:])).all(dim=-1)


def pair_scores(
    boxes_R4: Tensor | None,
    points_R2: Tensor | None,
    truth_N4: Tensor,
    truth_N2: Tensor,
    thresholds: Thresholds,
    iou_RN: Tensor | None = None,
) -> Tensor:
    """What each pair of a predicted and a true object is worth, float64 (R, N).

        1[IoU > .5] + 1[L1 < 10] + 1[distance of points < 30 and the predicted point lies in its own box]

    Without boxes the first two terms fall away and the point needs no box; without points the last one falls away.
    `iou_RN`, of masks, takes the place of the boxes' IoU.
    """
    terms = []
    if boxes_R4 is not None:
        iou_RN = inclusive_iou(boxes_R4, truth_N4) if iou_RN is None else iou_RN
        terms += [iou_RN > thresholds.iou, box_l1(boxes_R4, truth_N4) < thresholds.box_l1]
    if points_R2 is not None:
        near_RN = point_distance(points_R2, truth_N2) < thresholds.point
        terms += [near_RN if boxes_R4 is None else near_RN & inside_own_box(points_R2, boxes_R4)[:, None]]
    assert terms, "neither boxes nor points"
    return torch.stack(terms).double().sum(dim=0)


def matched_mean(scores_RN: Tensor, counts_G: Sequence[int]) -> Tensor:
    """Sum of the best one-to-one matching of each episode's objects, over max(M, N). Float64 (G,) on the same device.

    counts_G: how many of the rows are each episode's (M), in order. The denominator makes an object too many cost as
    much as one too few. An episode without objects earns 0. Source: VisionReasoner; matching by the Hungarian method.
    """
    assert scores_RN.shape[1] > 0 and sum(counts_G) == len(scores_RN), (scores_RN.shape, counts_G)
    parts = np.split(scores_RN.cpu().numpy(), np.cumsum(counts_G)[:-1])
    return torch.tensor([_best(part) for part in parts], dtype=torch.float64, device=scores_RN.device)


def _best(scores_MN: np.ndarray) -> float:
    if not len(scores_MN):
        return 0.0
    if 1 in scores_MN.shape:  # one object on a side: the best pair is the matching
        return float(scores_MN.max() / max(scores_MN.shape))
    return float(scores_MN[linear_sum_assignment(scores_MN, maximize=True)].sum() / max(scores_MN.shape))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + 1).prod(dim=-1)
