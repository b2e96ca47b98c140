"""Reward for a box against the true box."""

from __future__ import annotations

from torch import Tensor

from rewards.iou import box_iou


def box_hit(boxes_G4: Tensor, truth_G4: Tensor, threshold: float = 0.5) -> Tensor:
    """Return 1 for an overlap of box and true box by more than `threshold`, else 0; float64 (G,).

        r_s = 1[IoU(B_k, B*_k) > threshold]                          (ReVSeg, section 3.3)

    Both boxes are in one unit; the paper takes pixels of the keyframe as shown. An episode without
    a box passes zeros and earns 0.
    """
    return (box_iou(boxes_G4, truth_G4) > threshold).double()
