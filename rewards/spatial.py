"""Rewards for a box against the true box. Pure functions of tensors; they know no frame and no mask."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_iou(boxes_G4: Tensor, truth_G4: Tensor) -> Tensor:
    """Intersection over union of each box with its own truth, continuous areas, shape (G,), float64.

    Boxes are (x0, y0, x1, y1). 0 where either box has no area (an absent target, no box, a reversed box).
    """
    a_G4 = boxes_G4.double()
    b_G4 = truth_G4.double()
    sides_G2 = torch.minimum(a_G4[:, 2:], b_G4[:, 2:]) - torch.maximum(a_G4[:, :2], b_G4[:, :2])
    shared_G = sides_G2.clamp(min=0).prod(dim=1)
    area_a_G = _area(a_G4)
    area_b_G = _area(b_G4)
    union_G = area_a_G + area_b_G - shared_G
    both_G = (area_a_G > 0) & (area_b_G > 0)
    return torch.where(both_G, shared_G / torch.where(both_G, union_G, 1.0), 0.0)


def box_hit(boxes_G4: Tensor, truth_G4: Tensor, threshold: float = 0.5) -> Tensor:
    """r_s = 1[IoU(B_k, B*_k) > threshold], strictly above (ReVSeg, section 3.3).

    boxes_G4, truth_G4: in the same unit; the paper takes pixels of the keyframe as shown. IoU does not depend on it.
    An episode without a box passes zeros and earns 0. Returns float64 of shape (G,).
    """
    return (pairwise_iou(boxes_G4, truth_G4) > threshold).double()


def _area(boxes_G4: Tensor) -> Tensor:
    return (boxes_G4[:, 2:] - boxes_G4[:, :2]).clamp(min=0).prod(dim=1)
