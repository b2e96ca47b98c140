"""Region similarity J and boundary accuracy F of the DAVIS benchmark, equal to the official code to the last bit.

Definitions: davis2017-evaluation, davis2017/metrics.py, without the void label. Faster than the official code because
each frame is cropped to the box of prediction and ground truth: outside of it nothing can be counted.
This file knows arrays only; which frames and expressions are averaged is the caller's business.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

TOLERANCE = 0.008  # of the image diagonal (davis2017/metrics.py, bound_th)


def jaccard(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> np.ndarray:
    """J of each frame, float64 (F,): intersection over union of the masks, 1 where both are empty.

    Masks are bool or integers (non-zero is foreground) of one shape, else ValueError.
    """
    return _per_frame(pred_FHW, gt_FHW)[0]


def boundary_f(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> np.ndarray:
    """F of each frame, float64 (F,): F-measure of the boundaries, matched within ceil(0.008 * diagonal) pixels.

    1 where neither has a boundary, 0 where only one has. Masks as in `jaccard`.
    """
    return _per_frame(pred_FHW, gt_FHW)[1]


def j_and_f(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(J, F) of each frame; cheaper than one after the other."""
    return _per_frame(pred_FHW, gt_FHW)


def mean_j_and_f(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[float, float, float]:
    """(J, F, J&F) of one expression: means over all frames, first and last included, and the mean of the two."""
    j_F, f_F = _per_frame(pred_FHW, gt_FHW)
    j, f = float(j_F.mean()), float(f_F.mean())
    return j, f, (j + f) / 2


def _per_frame(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if pred_FHW.shape != gt_FHW.shape or pred_FHW.ndim != 3 or not pred_FHW.size:
        raise ValueError(
            f"predicted masks have shape {pred_FHW.shape} and true masks {gt_FHW.shape}: "
            "both must be one (frames, height, width); resize predictions to the size of the video first"
        )
    radius = math.ceil(TOLERANCE * np.linalg.norm(pred_FHW.shape[1:]))
    j_F, f_F = np.empty(len(pred_FHW)), np.empty(len(pred_FHW))
    for frame, (pred_HW, gt_HW) in enumerate(zip(_zero_one(pred_FHW), _zero_one(gt_FHW), strict=True)):
        pred_hw, gt_hw = _crop(pred_HW, gt_HW)
        j_F[frame], f_F[frame] = _j(pred_hw, gt_hw), _f(pred_hw, gt_hw, radius)
    return j_F, f_F


def _zero_one(masks_FHW: np.ndarray) -> np.ndarray:
    """uint8 0 and 1: a stored mask may hold 255 or an object number, which would count more than once."""
    return np.ascontiguousarray(masks_FHW != 0).view(np.uint8)


def _crop(pred_HW: np.ndarray, gt_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks cut to the box of their union and a margin of 2 pixels (one frame pixel if both are empty).

    With the margin a boundary of the crop is the boundary of the image: its last row and column, which the boundary
    map treats specially, are either those of the image or empty. Dilation only matters at boundary pixels.
    """
    x, y, width, height = cv2.boundingRect(pred_HW | gt_HW)
    box = slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2)
    return np.ascontiguousarray(pred_HW[box]), np.ascontiguousarray(gt_HW[box])


def _j(pred_HW: np.ndarray, gt_HW: np.ndarray) -> float:
    union = cv2.countNonZero(pred_HW | gt_HW)
    return cv2.countNonZero(pred_HW & gt_HW) / union if union else 1.0


def _f(pred_HW: np.ndarray, gt_HW: np.ndarray, radius: int) -> float:
    pred_edge_HW, gt_edge_HW = _boundary(pred_HW), _boundary(gt_HW)
    n_pred, n_gt = cv2.countNonZero(pred_edge_HW), cv2.countNonZero(gt_edge_HW)
    if n_pred == 0 or n_gt == 0:
        return float(n_pred == n_gt)
    disk = _disk(radius)
    precision = cv2.countNonZero(pred_edge_HW & cv2.dilate(gt_edge_HW, disk)) / n_pred
    recall = cv2.countNonZero(gt_edge_HW & cv2.dilate(pred_edge_HW, disk)) / n_gt
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour (davis2017/metrics.py, _seg2bmap)."""
    edge_HW = np.zeros_like(mask_HW)
    here, right, below, diagonal = mask_HW[:-1, :-1], mask_HW[:-1, 1:], mask_HW[1:, :-1], mask_HW[1:, 1:]
    edge_HW[:-1, :-1] = (here ^ right) | (here ^ below) | (here ^ diagonal)
    edge_HW[-1, :-1] = mask_HW[-1, :-1] ^ mask_HW[-1, 1:]
    edge_HW[:-1, -1] = mask_HW[:-1, -1] ^ mask_HW[1:, -1]
    return edge_HW


@functools.cache
def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
