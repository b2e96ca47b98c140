"""What is measured on the masks of one expression: J, F, pixel accuracy, robustness, IoU of images, spans, keyframes.

J and F: davis2017-evaluation, davis2017/metrics.py, to the last bit; void pixels are taken out of both masks first
(`without`), which is what the official code does with them. Faster because each frame is cropped to the box of
prediction and ground truth: outside of it nothing can be counted. This file knows arrays and numbers only; which
frames and expressions are averaged is the business of `core.evaluation.protocols`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Literal

import cv2
import numpy as np

TOLERANCE = 0.008  # of the image diagonal (davis2017/metrics.py, bound_th)

_CORNERS = np.ones((2, 2), dtype=np.uint8)
Variant = Literal[
    "binary", "visa255"
]  # of A and R: predicted foreground counts 1, or 255 (see `robustness`)
Span = tuple[float, float]  # half-open [start, stop)


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
    j = float(j_F.mean())
    f = float(f_F.mean())
    return j, f, (j + f) / 2


def without(masks_FHW: np.ndarray, ignore_FHW: np.ndarray | None) -> np.ndarray:
    """Masks as bool with the ignored pixels (void label 255 of DAVIS and ReasonSeg) cleared; None ignores nothing."""
    masks_FHW = masks_FHW.astype(bool, copy=False)
    return masks_FHW if ignore_FHW is None else masks_FHW & ~ignore_FHW.astype(bool, copy=False)


def overlap(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(intersection, union) of each frame in pixels, int64 (F,)."""
    _check(pred_FHW, gt_FHW)
    pairs = zip(_zero_one(pred_FHW), _zero_one(gt_FHW), strict=True)
    inter_F = np.array(
        [cv2.countNonZero(pred_HW & gt_HW) for pred_HW, gt_HW in pairs], dtype=np.int64
    )
    return inter_F, pixels(pred_FHW) + pixels(gt_FHW) - inter_F


def pixels(masks_FHW: np.ndarray) -> np.ndarray:
    """Foreground pixels of each frame, int64 (F,)."""
    return np.array([cv2.countNonZero(mask_HW) for mask_HW in _zero_one(masks_FHW)], dtype=np.int64)


def accuracy(
    inter_F: np.ndarray, union_F: np.ndarray, area: int, variant: Variant = "binary"
) -> np.ndarray:
    """A of each frame, float64 (F,): share of pixels whose two labels are equal (VISA tools/metrics.py).

    From the counts of `overlap` and the pixels of a frame. "visa255": predictions are read from 0/255 images and
    compared with 0/1 truth, as VISA's script does, so that no foreground pixel is ever equal.
    """
    unequal_F = union_F if variant == "visa255" else union_F - inter_F
    return (area - unequal_F) / area


def robustness(
    wrong_F: np.ndarray, foreground_F: np.ndarray, variant: Variant = "binary"
) -> np.ndarray:
    """R of each frame, float64 (F,): max(0, 1 - |pred minus gt| / (|foreground| + 1e-6)) (VISA tools/metrics.py).

    Both are pixels of each frame; foreground is the union of all annotated objects of the video. With "visa255" every
    wrong pixel weighs 255, as where predictions are read from 0/255 images; published figures of that kind cannot be
    compared with "binary". This is not the R of R2VOS, which is 1 - IoU_negative / IoU_positive over pairs.
    """
    weight = 255 if variant == "visa255" else 1
    return np.maximum(1 - weight * wrong_F / (foreground_F + 1e-6), 0.0)


def g_iou(inter_N: Sequence[float], union_N: Sequence[float], empty: float = 1.0) -> float:
    """gIoU: mean of the images' IoU (LISA train_ds.py, validate).

    `empty` is the IoU of an image where both masks are empty: 1 in LISA, 0 in Seg-Zero (calculate_iou.py).
    """
    inter = np.asarray(inter_N, dtype=float)
    union = np.asarray(union_N, dtype=float)
    return float(np.mean(np.where(union > 0, inter / np.maximum(union, 1), empty)))


def c_iou(inter_N: Sequence[float], union_N: Sequence[float]) -> float:
    """cIoU (oIoU): sum of the intersections over sum of the unions, so large objects count more; 1 if all are empty."""
    total = float(np.sum(union_N))
    return float(np.sum(inter_N)) / total if total else 1.0


def span_iou(a: Sequence[Span], b: Sequence[Span]) -> float:
    """tIoU of two sets of spans: length of what both cover over length of what either covers; 1 if both are empty.

    ValueError for a span that ends before it starts.
    """
    for start, stop in (*a, *b):
        if not start <= stop:
            raise ValueError(f"span [{start}, {stop}): it ends before it starts")
    cuts = sorted({edge for span in (*a, *b) for edge in span})
    both = either = 0.0
    for start, stop in itertools.pairwise(cuts):
        in_a, in_b = (any(s <= start and stop <= e for s, e in spans) for spans in (a, b))
        both += (stop - start) * (in_a and in_b)
        either += (stop - start) * (in_a or in_b)
    return both / either if either else 1.0


def frame_iou(pred_F: np.ndarray, gt_F: np.ndarray) -> float:
    """tIoU of two sets of frames, bool (F,), such as where a mask is not empty (Long-RVOS); 1 if both are empty."""
    either = int((pred_F | gt_F).sum())
    return int((pred_F & gt_F).sum()) / either if either else 1.0


def keyframe_accuracy(frames: Collection[int], visible_F: np.ndarray) -> float:
    """Share of the named keyframes on which the target is visible; 0 if none is named.

    A frame outside of the video counts as wrong. (VideoSEG-O3 reports its complement for keyframes with empty truth.)
    """
    hits = sum(0 <= frame < len(visible_F) and bool(visible_F[frame]) for frame in frames)
    return hits / len(frames) if frames else 0.0


def _check(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> None:
    if pred_FHW.shape != gt_FHW.shape or pred_FHW.ndim != 3 or not pred_FHW.size:
        raise ValueError(
            f"predicted masks have shape {pred_FHW.shape} and true masks {gt_FHW.shape}: "
            "both must be one (frames, height, width); resize predictions to the size of the video first"
        )


def _per_frame(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _check(pred_FHW, gt_FHW)
    radius = math.ceil(TOLERANCE * np.linalg.norm(pred_FHW.shape[1:]))
    j_F = np.empty(len(pred_FHW))
    f_F = np.empty(len(pred_FHW))
    for frame, (pred_HW, gt_HW) in enumerate(
        zip(_zero_one(pred_FHW), _zero_one(gt_FHW), strict=True)
    ):
        pred_hw, gt_hw = _crop(pred_HW, gt_HW)
        j_F[frame] = _j(pred_hw, gt_hw)
        f_F[frame] = _f(pred_hw, gt_hw, radius)
    return j_F, f_F


def _zero_one(masks_FHW: np.ndarray) -> np.ndarray:
    """uint8 0 and 1: a stored mask may hold 255 or an object number, which would count more than once."""
    binary_FHW = masks_FHW if masks_FHW.dtype == bool else masks_FHW != 0
    return np.ascontiguousarray(binary_FHW).view(np.uint8)


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
    pred_edge_HW = _boundary(pred_HW)
    gt_edge_HW = _boundary(gt_HW)
    n_pred = cv2.countNonZero(pred_edge_HW)
    n_gt = cv2.countNonZero(gt_edge_HW)
    if n_pred == 0 or n_gt == 0:
        return float(n_pred == n_gt)
    disk = _disk(radius)
    precision = cv2.countNonZero(pred_edge_HW & cv2.dilate(gt_edge_HW, disk)) / n_pred
    recall = cv2.countNonZero(gt_edge_HW & cv2.dilate(pred_edge_HW, disk)) / n_gt
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour (davis2017/metrics.py, _seg2bmap).

    That is where the largest of the four is not the smallest; beyond the border lies a copy of it.
    """
    return cv2.morphologyEx(
        mask_HW, cv2.MORPH_GRADIENT, _CORNERS, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE
    )


@functools.cache
def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
