"""Intersection over union of boxes and masks, in the conventions of the papers.

| function | of | if both are empty |
|---|---|---|
| `box_iou` | pairs of boxes, continuous areas | 0 |
| `inclusive_box_iou` | every pair of two lists of boxes, last row and column inside | no such box |
| `mask_iou` | pairs of masks | chosen by the caller |
| `mask_iou_table` | every pair of two lists of masks | 0 |

Sets of frames are measured in `rewards.temporal_search`, published figures in
`core.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A float64 Tensor or np.ndarray. Functions of tables use only operations that both have: for the
# few numbers of a group on a CPU, a numpy call takes a quarter of the time of a torch call.
Table = Any


def box_iou(boxes_G4: Tensor, truth_G4: Tensor) -> Tensor:
    """Return the IoU of each box with its own true box, float64 (G,).

    Boxes are (x0, y0, x1, y1) with continuous areas. The IoU is 0 if either box has no area: an
    absent target, no box, a reversed box.
    """
    a_G4 = boxes_G4.double()
    b_G4 = truth_G4.double()
    low_G2 = torch.maximum(a_G4[:, :2], b_G4[:, :2])
    high_G2 = torch.minimum(a_G4[:, 2:], b_G4[:, 2:])
    shared_G = (high_G2 - low_G2).clamp(min=0).prod(dim=1)

    area_a_G = _area(a_G4)
    area_b_G = _area(b_G4)
    union_G = area_a_G + area_b_G - shared_G
    both_G = (area_a_G > 0) & (area_b_G > 0)
    return torch.where(both_G, shared_G / torch.where(both_G, union_G, 1.0), 0.0)


def inclusive_box_iou(boxes_R4: Table, truth_N4: Table) -> Table:
    """Return the IoU of every pair of boxes with their last row and column inside, (R, N).

        width = x1 - x0 + 1, height = y1 - y0 + 1, also of the intersection (at least 0)

    Source: VisionReasoner. A box of one point has area 1. The sides of a reversed box keep their
    sign, as published: the union can be 0 or below, and a result that is negative or not a number
    is no hit.
    """
    # With R, the long side, as the last dimension the operations run over contiguous memory.
    boxes_4R = boxes_R4.T
    truth_4N1 = truth_N4.T[:, :, None]
    low_2NR = boxes_4R[:2, None].clip(min=truth_4N1[:2])
    high_2NR = boxes_4R[2:, None].clip(max=truth_4N1[2:])
    shared_NR = _product((high_2NR - low_2NR + 1).clip(min=0))

    area_R = _product(boxes_4R[2:] - boxes_4R[:2] + 1)
    area_N1 = _product(truth_4N1[2:] - truth_4N1[:2] + 1)
    return (shared_NR / (area_R + area_N1 - shared_NR)).T


def mask_iou(masks_NHW: Tensor, truth_NHW: Tensor, empty: float | Tensor) -> Tensor:
    """Return the IoU of pairs of bool masks, float64 (N,); `empty` if both are empty.

    A single mask (1, H, W) is compared with all the others. VideoSEG-O3's release takes 1 for the
    frames of a video and 0 for a keyframe as `empty`.
    """
    shared_N = (masks_NHW & truth_NHW).sum(dim=(1, 2)).double()
    either_N = (masks_NHW | truth_NHW).sum(dim=(1, 2)).double()
    empty_N = torch.as_tensor(empty).double()
    return torch.where(either_N > 0, shared_N / either_N.clamp(min=1), empty_N)


def mask_iou_table(masks_R: Sequence[np.ndarray | None], truth_NHW: Tensor) -> Tensor:
    """Return the IoU of every pair of masks, float64 (R, N); 0 for a missing mask (None).

    Predicted masks, bool (H, W), go to the device one at a time: the hundreds of a bad answer would
    not fit.
    """
    if not masks_R:
        return torch.zeros((0, len(truth_NHW)), dtype=torch.float64)

    rows = []
    for mask in masks_R:
        if mask is None:
            mask_HW = torch.zeros_like(truth_NHW[0])
        else:
            mask_HW = torch.tensor(mask, device=truth_NHW.device)
        rows.append(mask_iou(mask_HW[None], truth_NHW, empty=0.0))
    return torch.stack(rows)


def _area(boxes_G4: Tensor) -> Tensor:
    sides_G2 = boxes_G4[:, 2:] - boxes_G4[:, :2]
    return sides_G2.clamp(min=0).prod(dim=1)


def _product(sides_2: Table) -> Table:
    return sides_2[0] * sides_2[1]
