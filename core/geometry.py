"""Boxes and frame numbers. Boxes are (x0, y0, x1, y1), x1 and y1 exclusive; this file knows no masks and no files."""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]


def box_iou(a_N4: np.ndarray, b_N4: np.ndarray) -> np.ndarray:
    """Intersection over union of N pairs of boxes, float64 (N,).

    One box against many broadcasts: shapes (4,) and (N, 4) give (N,). A box with x1 <= x0 or y1 <= y0 is empty,
    and the IoU with an empty box is 0, also of two empty ones: an absent object is not a hit.
    """
    a_N4 = np.asarray(a_N4, dtype=np.float64)
    b_N4 = np.asarray(b_N4, dtype=np.float64)
    low_N2 = np.maximum(a_N4[..., :2], b_N4[..., :2])
    high_N2 = np.minimum(a_N4[..., 2:], b_N4[..., 2:])
    inter_N = _area(low_N2, high_N2)
    union_N = _area(a_N4[..., :2], a_N4[..., 2:]) + _area(b_N4[..., :2], b_N4[..., 2:]) - inter_N
    return np.where(union_N > 0, inter_N / np.where(union_N > 0, union_N, 1.0), 0.0)


def _area(low_N2: np.ndarray, high_N2: np.ndarray) -> np.ndarray:
    return np.prod(np.clip(high_N2 - low_N2, 0.0, None), axis=-1)


def scale_box(box: Box, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Box:
    """The box in an image resized from (height, width) `from_hw` to `to_hw`; not rounded, not clipped."""
    sy = to_hw[0] / from_hw[0]
    sx = to_hw[1] / from_hw[1]
    x0, y0, x1, y1 = box
    return (x0 * sx, y0 * sy, x1 * sx, y1 * sy)


def uniform_frames(num_frames: int, n: int) -> list[int]:
    """n frame numbers spread evenly over [0, num_frames), ascending; all of them when there are no more than n.

    Frame i is the middle of the i-th of n equal parts, so no part of the video is favoured and none repeats.
    """
    assert num_frames > 0 and n > 0, f"{n} frames of {num_frames}"
    if n >= num_frames:
        return list(range(num_frames))
    return [(2 * i + 1) * num_frames // (2 * n) for i in range(n)]
