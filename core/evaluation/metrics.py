"""Measures of one expression's masks: J, F, pixel accuracy, robustness, IoU of images, keyframes.

J and F equal davis2017-evaluation, davis2017/metrics.py, to the last bit. Void pixels are taken out
of both masks first (`without`), as in the official code. Each frame is cropped to the box of
prediction and ground truth; no pixel outside of it counts.

`core.evaluation.protocols` chooses the frames and expressions of each mean. The IoUs of rewards
are in `rewards.iou`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from typing import Literal

import cv2
import numpy as np

# Share of the image diagonal (davis2017/metrics.py, bound_th).
TOLERANCE = 0.008

# The weight of predicted foreground in A and R: 1 (binary), or 255 (see `robustness`).
ForegroundWeight = Literal["binary", "visa255"]

_CORNERS = np.ones((2, 2), dtype=np.uint8)


def jaccard(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> np.ndarray:
    """Return J of each frame, float64 (F,): IoU of the masks, 1 for two empty ones.

    Masks are bool or integers (non-zero is foreground).

    Raises:
        ValueError: the shapes differ.
    """
    inter_F, union_F = overlap(pred_FHW, gt_FHW)
    return np.where(union_F > 0, inter_F / np.maximum(union_F, 1), 1.0)


def j_and_f(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of each frame, float64 (F,) each. Masks as in `jaccard`.

    F is the F-measure of the boundaries, matched within ceil(0.008 * diagonal) pixels: 1 if neither
    mask has a boundary, 0 if only one has.
    """
    _check(pred_FHW, gt_FHW)
    radius = math.ceil(TOLERANCE * np.linalg.norm(pred_FHW.shape[1:]))
    j_F = np.empty(len(pred_FHW))
    f_F = np.empty(len(pred_FHW))
    pairs = zip(_zero_one(pred_FHW), _zero_one(gt_FHW), strict=True)
    for frame, (pred_HW, gt_HW) in enumerate(pairs):
        pred_hw, gt_hw = _crop(pred_HW, gt_HW)
        j_F[frame] = _frame_j(pred_hw, gt_hw)
        f_F[frame] = _frame_f(pred_hw, gt_hw, radius)
    return j_F, f_F


def mean_j_and_f(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[float, float, float]:
    """Return J, F and J&F of one expression: means over all frames, and the mean of the two."""
    j_F, f_F = j_and_f(pred_FHW, gt_FHW)
    j = float(j_F.mean())
    f = float(f_F.mean())
    return j, f, (j + f) / 2


def without(masks_FHW: np.ndarray, ignore_FHW: np.ndarray | None) -> np.ndarray:
    """Return masks as bool with the ignored pixels cleared; None ignores nothing.

    Ignored pixels are the void label 255 of DAVIS and ReasonSeg.
    """
    masks_FHW = masks_FHW.astype(bool, copy=False)
    if ignore_FHW is None:
        return masks_FHW
    return masks_FHW & ~ignore_FHW.astype(bool, copy=False)


def overlap(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intersection and union of each frame in pixels, int64 (F,) each."""
    _check(pred_FHW, gt_FHW)
    pairs = zip(_zero_one(pred_FHW), _zero_one(gt_FHW), strict=True)
    counts = [cv2.countNonZero(pred_HW & gt_HW) for pred_HW, gt_HW in pairs]
    inter_F = np.array(counts, dtype=np.int64)
    union_F = pixels(pred_FHW) + pixels(gt_FHW) - inter_F
    return inter_F, union_F


def pixels(masks_FHW: np.ndarray) -> np.ndarray:
    """Return the foreground pixels of each frame, int64 (F,)."""
    counts = [cv2.countNonZero(mask_HW) for mask_HW in _zero_one(masks_FHW)]
    return np.array(counts, dtype=np.int64)


def accuracy(
    inter_F: np.ndarray,
    union_F: np.ndarray,
    area: int,
    variant: ForegroundWeight = "binary",
) -> np.ndarray:
    """Return A of each frame, float64 (F,): the share of pixels with equal labels.

    "visa255" compares predictions read from 0/255 images with 0/1 truth, as VISA's script does, so
    that no foreground pixel is ever equal. Source: VISA tools/metrics.py.

    Args:
        inter_F: intersections (`overlap`).
        union_F: unions (`overlap`).
        area: pixels of a frame.
        variant: weight of the predicted foreground.
    """
    unequal_F = union_F if variant == "visa255" else union_F - inter_F
    return (area - unequal_F) / area


def robustness(
    wrong_F: np.ndarray,
    foreground_F: np.ndarray,
    variant: ForegroundWeight = "binary",
) -> np.ndarray:
    """Return R of each frame, float64 (F,): max(0, 1 - wrong / (foreground + 1e-6)).

    With "visa255" every wrong pixel weighs 255, as with predictions read from 0/255 images;
    published figures of that kind cannot be compared with "binary". This is not the R of R2VOS: 1 -
    IoU_negative / IoU_positive over pairs. Source: VISA tools/metrics.py.

    Args:
        wrong_F: predicted pixels outside of the truth.
        foreground_F: pixels of the union of all annotated objects of the video.
        variant: weight of the predicted foreground.
    """
    weight = 255 if variant == "visa255" else 1
    return np.maximum(1 - weight * wrong_F / (foreground_F + 1e-6), 0.0)


def g_iou(inter_N: Sequence[float], union_N: Sequence[float], empty: float = 1.0) -> float:
    """Return gIoU, the mean of the images' IoU (LISA train_ds.py, validate).

    `empty` is the IoU of an image with two empty masks: 1 in LISA, 0 in Seg-Zero
    (calculate_iou.py).
    """
    inter = np.asarray(inter_N, dtype=float)
    union = np.asarray(union_N, dtype=float)
    iou = np.where(union > 0, inter / np.maximum(union, 1), empty)
    return float(np.mean(iou))


def c_iou(inter_N: Sequence[float], union_N: Sequence[float]) -> float:
    """Return cIoU (oIoU): sum of the intersections over sum of the unions; 1 if all are empty.

    Large objects count more.
    """
    total = float(np.sum(union_N))
    if not total:
        return 1.0
    return float(np.sum(inter_N)) / total


def frame_iou(pred_F: np.ndarray, gt_F: np.ndarray) -> float:
    """Return the tIoU of two sets of frames, bool (F,) each (Long-RVOS); 1 if both are empty."""
    either = int((pred_F | gt_F).sum())
    if not either:
        return 1.0
    return int((pred_F & gt_F).sum()) / either


def keyframe_accuracy(frames: Collection[int], visible_F: np.ndarray) -> float:
    """Return the share of the named keyframes with the target in sight; 0 without any.

    A frame outside of the video counts as wrong. VideoSEG-O3 reports the complement, the share of
    keyframes with empty truth.
    """
    if not frames:
        return 0.0
    hits = 0
    for frame in frames:
        if 0 <= frame < len(visible_F) and visible_F[frame]:
            hits += 1
    return hits / len(frames)


def _check(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> None:
    if pred_FHW.shape != gt_FHW.shape or pred_FHW.ndim != 3 or not pred_FHW.size:
        raise ValueError(
            f"predicted masks have shape {pred_FHW.shape} and true masks {gt_FHW.shape}: both must "
            "be one (frames, height, width); resize predictions to the size of the video first"
        )


def _zero_one(masks_FHW: np.ndarray) -> np.ndarray:
    """Masks as uint8 0 and 1: a stored mask may hold 255 or an object number."""
    binary_FHW = masks_FHW if masks_FHW.dtype == bool else masks_FHW != 0
    return np.ascontiguousarray(binary_FHW).view(np.uint8)


def _crop(pred_HW: np.ndarray, gt_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks cut to the box of their union and a margin of 2 pixels.

    With the margin a boundary of the crop is the boundary of the image: the boundary map treats the
    last row and column specially, and these are either the image's or empty. Dilation only matters
    at boundary pixels.
    """
    x, y, width, height = cv2.boundingRect(pred_HW | gt_HW)
    rows = slice(max(y - 2, 0), y + height + 2)
    columns = slice(max(x - 2, 0), x + width + 2)
    pred_hw = np.ascontiguousarray(pred_HW[rows, columns])
    gt_hw = np.ascontiguousarray(gt_HW[rows, columns])
    return pred_hw, gt_hw


def _frame_j(pred_HW: np.ndarray, gt_HW: np.ndarray) -> float:
    union = cv2.countNonZero(pred_HW | gt_HW)
    if not union:
        return 1.0
    return cv2.countNonZero(pred_HW & gt_HW) / union


def _frame_f(pred_HW: np.ndarray, gt_HW: np.ndarray, radius: int) -> float:
    pred_edge_HW = _boundary(pred_HW)
    gt_edge_HW = _boundary(gt_HW)
    pred_count = cv2.countNonZero(pred_edge_HW)
    gt_count = cv2.countNonZero(gt_edge_HW)
    if pred_count == 0 or gt_count == 0:
        return float(pred_count == gt_count)

    disk = _disk(radius)
    precision = cv2.countNonZero(pred_edge_HW & cv2.dilate(gt_edge_HW, disk)) / pred_count
    recall = cv2.countNonZero(gt_edge_HW & cv2.dilate(pred_edge_HW, disk)) / gt_count
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels unlike their right, lower or lower right neighbour.

    At such a pixel the maximum of the four differs from their minimum. Beyond the border the last
    row and column are repeated. Source: davis2017/metrics.py, _seg2bmap.
    """
    return cv2.morphologyEx(
        mask_HW,
        cv2.MORPH_GRADIENT,
        _CORNERS,
        anchor=(0, 0),
        borderType=cv2.BORDER_REPLICATE,
    )


@functools.cache
def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
