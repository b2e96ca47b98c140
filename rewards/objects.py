"""Rewards for several objects given as boxes and points against several true ones, matched one to one.

Boxes are (x0, y0, x1, y1) with x1 and y1 *inside* the box, in pixels of the image that the answer is about. All
thresholds are pixels of that image and mean what they mean at a fixed size (the papers: 840 x 840).
Letters: R rows of predicted objects (those of all episodes of a group, one after the other), N true objects.

A table is a float64 tensor on any device, or an array: functions of tables use only what both have, because for the
few numbers of a group on a CPU a call of numpy's takes a quarter of the time of one of torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Table = Any  # Tensor or np.ndarray, float64


@dataclass(frozen=True)
class Thresholds:
    """When a pair of objects counts as the same, each strictly; VisionReasoner's numbers for 840 x 840."""

    iou: float = 0.5  # above
    box_l1: float = 10.0  # below, pixels
    point: float = 30.0  # below, pixels


def inclusive_iou(boxes_R4: Table, truth_N4: Table) -> Table:
    """Intersection over union where the last row and column belong to the box, (R, N).

        width = x1 - x0 + 1, height = y1 - y0 + 1, also of the intersection, cut off at 0 there alone

    Source: VisionReasoner. A box of one point has area 1. The sides of a reversed box keep their sign, as published:
    the union can be 0 or below, and what comes out negative or not a number is no hit.
    """
    # R, the long side, last: that is fast
    boxes_4R = boxes_R4.T
    truth_4N1 = truth_N4.T[:, :, None]
    low_2NR = boxes_4R[:2, None].clip(min=truth_4N1[:2])
    high_2NR = boxes_4R[2:, None].clip(max=truth_4N1[2:])
    shared_NR = _area((high_2NR - low_2NR + 1).clip(min=0))
    area_R, area_N1 = (_area(b[2:] - b[:2] + 1) for b in (boxes_4R, truth_4N1))
    return (shared_NR / (area_R + area_N1 - shared_NR)).T


def mask_ious(masks_R: Sequence[np.ndarray | None], truth_NHW: Tensor) -> Tensor:
    """Intersection over union of every pair of masks, float64 (R, N); 0 for a mask that was not made (None).

    One predicted mask (bool (H, W)) at a time: the hundreds that a bad answer may list would not fit on the device.
    """
    rows = []
    for mask in masks_R:
        mask_HW = (
            torch.zeros_like(truth_NHW[0])
            if mask is None
            else torch.tensor(mask, device=truth_NHW.device)
        )
        either_N = (mask_HW | truth_NHW).sum(dim=(1, 2)).clamp(min=1)
        rows.append((mask_HW & truth_NHW).sum(dim=(1, 2)).double() / either_N)
    return torch.stack(rows) if rows else torch.zeros((0, len(truth_NHW)), dtype=torch.float64)


def box_l1(boxes_R4: Table, truth_N4: Table) -> Table:
    """Mean absolute difference of the four coordinates, pixels, (R, N)."""
    return abs(boxes_R4.T[:, None] - truth_N4.T[:, :, None]).sum(0).T / 4


def point_distance(points_R2: Table, truth_N2: Table) -> Table:
    """Euclidean distance, pixels, (R, N). The papers call it L1; the published definition is this one."""
    off_2NR = points_R2.T[:, None] - truth_N2.T[:, :, None]
    return (off_2NR * off_2NR).sum(0).T ** 0.5


def inside_own_box(points_R2: Table, boxes_R4: Table) -> Table:
    """Whether each point lies in its own box, edges included, bool (R,)."""
    inside_2R = ((points_R2 >= boxes_R4[:, :2]) & (points_R2 <= boxes_R4[:, 2:])).T
    return inside_2R[0] & inside_2R[1]


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
    tables = (boxes_R4, points_R2, truth_N4, truth_N2, iou_RN)
    if truth_N4.device.type != "cpu":
        return _pair_scores(thresholds, *tables)
    arrays = (
        None if t is None else np.asfortranarray(t.numpy(), np.float64) for t in tables
    )  # long columns
    with np.errstate(all="ignore"):  # as torch does
        return torch.from_numpy(_pair_scores(thresholds, *arrays))


def _pair_scores(
    at: Thresholds,
    boxes_R4: Table | None,
    points_R2: Table | None,
    truth_N4: Table,
    truth_N2: Table,
    iou_RN: Table | None,
) -> Table:
    terms = []
    if boxes_R4 is not None:
        iou_RN = inclusive_iou(boxes_R4, truth_N4) if iou_RN is None else iou_RN
        terms += [iou_RN > at.iou, box_l1(boxes_R4, truth_N4) < at.box_l1]
    if points_R2 is not None:
        near_RN = point_distance(points_R2, truth_N2) < at.point
        terms += [
            near_RN if boxes_R4 is None else near_RN & inside_own_box(points_R2, boxes_R4)[:, None]
        ]
    assert terms, "neither boxes nor points"
    return sum(terms, start=0.0 * truth_N4[:, 0])  # that, because True and True is one in an array


def matched_mean(scores_RN: Tensor, counts_G: Sequence[int]) -> Tensor:
    """Sum of the best one-to-one matching of each episode's objects, over max(M, N). Float64 (G,) on the same device.

    counts_G: how many of the rows are each episode's (M), in order. The denominator makes an object too many cost as
    much as one too few. An episode without objects earns 0. Source: VisionReasoner; matching by the Hungarian method.
    """
    assert scores_RN.shape[1] > 0 and sum(counts_G) == len(scores_RN), (scores_RN.shape, counts_G)
    scores = scores_RN.cpu().numpy()
    end = 0
    means = []
    for count in counts_G:
        means.append(_best(scores[end : end + count]))
        end += count
    return torch.tensor(means, dtype=torch.float64, device=scores_RN.device)


def _best(scores_MN: np.ndarray) -> float:
    if not len(scores_MN):
        return 0.0
    if 1 in scores_MN.shape:  # one object on a side: the best pair is the matching
        return float(scores_MN.max() / max(scores_MN.shape))
    return float(
        scores_MN[linear_sum_assignment(scores_MN, maximize=True)].sum() / max(scores_MN.shape)
    )


def _area(sides_2: Table) -> Table:
    return sides_2[0] * sides_2[1]
