"""Rewards for several objects, given as boxes and points and matched one to one with the true ones.

Boxes are (x0, y0, x1, y1) with x1 and y1 *inside* the box, in pixels of the shown image. The
thresholds are pixels of the same image; the papers set them for 840 x 840.

Letters: R predicted objects (those of all episodes of a group, one after the other), N true
objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rewards.iou import Table, inclusive_box_iou


@dataclass(frozen=True)
class Thresholds:
    """Limits, all strict, for two objects to count as the same; VisionReasoner's for 840 x 840.

    Attributes:
        iou: boxes (or masks) above it match.
        box_l1: pixels; boxes with a smaller mean difference match.
        point: pixels; points at a smaller distance match.
    """

    iou: float = 0.5
    box_l1: float = 10.0
    point: float = 30.0


def box_l1(boxes_R4: Table, truth_N4: Table) -> Table:
    """Return the mean absolute difference of the four coordinates, pixels, (R, N)."""
    difference_4NR = boxes_R4.T[:, None] - truth_N4.T[:, :, None]
    return abs(difference_4NR).sum(0).T / 4


def point_distance(points_R2: Table, truth_N2: Table) -> Table:
    """Return the Euclidean distance, pixels, (R, N).

    The papers call it L1; the published code is Euclidean.
    """
    difference_2NR = points_R2.T[:, None] - truth_N2.T[:, :, None]
    return (difference_2NR * difference_2NR).sum(0).T ** 0.5


def inside_own_box(points_R2: Table, boxes_R4: Table) -> Table:
    """Return whether each point lies in its own box, edges included, bool (R,)."""
    inside_R2 = (points_R2 >= boxes_R4[:, :2]) & (points_R2 <= boxes_R4[:, 2:])
    return inside_R2[:, 0] & inside_R2[:, 1]


def pair_scores(
    boxes_R4: Tensor | None,
    points_R2: Tensor | None,
    truth_N4: Tensor,
    truth_N2: Tensor,
    thresholds: Thresholds,
    iou_RN: Tensor | None = None,
) -> Tensor:
    """Return the score of each pair of a predicted and a true object, float64 (R, N).

        1[IoU > .5] + 1[L1 < 10] + 1[distance of points < 30 and the point lies in its own box]

    Without boxes the first two terms fall away and the point needs no box. Without points the last
    term falls away. `iou_RN`, of masks, takes the place of the boxes' IoU.

    Source: VisionReasoner (docs/spec/videoseg_r1.md, Rewards).
    """
    tables = (boxes_R4, points_R2, truth_N4, truth_N2, iou_RN)
    if truth_N4.device.type != "cpu":
        return _pair_scores(thresholds, *tables)

    # Fortran order makes the columns, over which the operations run, contiguous.
    arrays = [None if t is None else np.asfortranarray(t.numpy(), np.float64) for t in tables]
    # A reversed box divides by 0. Torch gives nan without a warning, so numpy shall as well.
    with np.errstate(all="ignore"):
        return torch.from_numpy(_pair_scores(thresholds, *arrays))


def _pair_scores(
    thresholds: Thresholds,
    boxes_R4: Table | None,
    points_R2: Table | None,
    truth_N4: Table,
    truth_N2: Table,
    iou_RN: Table | None,
) -> Table:
    terms = []
    if boxes_R4 is not None:
        if iou_RN is None:
            iou_RN = inclusive_box_iou(boxes_R4, truth_N4)
        terms.append(iou_RN > thresholds.iou)
        terms.append(box_l1(boxes_R4, truth_N4) < thresholds.box_l1)
    if points_R2 is not None:
        near_RN = point_distance(points_R2, truth_N2) < thresholds.point
        if boxes_R4 is not None:
            near_RN = near_RN & inside_own_box(points_R2, boxes_R4)[:, None]
        terms.append(near_RN)
    assert terms, "neither boxes nor points"

    # A sum of bool arrays alone would be a logical or: True and True is one.
    zero_N = 0.0 * truth_N4[:, 0]
    return sum(terms, start=zero_N)


def matched_mean(scores_RN: Tensor, counts_G: Sequence[int]) -> Tensor:
    """Return the sum of each episode's best one-to-one matching over max(M, N); float64 (G,).

    The denominator makes an extra object cost as much as a missing one. An episode without objects
    earns 0. Source: VisionReasoner; the matching is found by the Hungarian method.

    Args:
        scores_RN: `pair_scores`; the rows of all episodes, one after the other.
        counts_G: number of rows of each episode (M).
    """
    assert scores_RN.shape[1] > 0, "no true object"
    assert sum(counts_G) == len(scores_RN), (scores_RN.shape, counts_G)
    scores = scores_RN.cpu().numpy()
    means = []
    start = 0
    for count in counts_G:
        means.append(_best_matching(scores[start : start + count]))
        start += count
    return torch.tensor(means, dtype=torch.float64, device=scores_RN.device)


def _best_matching(scores_MN: np.ndarray) -> float:
    if not len(scores_MN):
        return 0.0
    larger = max(scores_MN.shape)
    if 1 in scores_MN.shape:
        # With one object on a side the best pair is the matching.
        return float(scores_MN.max() / larger)
    # Imported here: every actor reads this file, and few match objects.
    from scipy.optimize import linear_sum_assignment

    matching = linear_sum_assignment(scores_MN, maximize=True)
    return float(scores_MN[matching].sum() / larger)
