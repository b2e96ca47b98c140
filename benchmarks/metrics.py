"""J and F of `core.evaluation.metrics` against the published definition.

    python -m benchmarks.metrics

One thread, 480 x 854, one object of a given share of the frame, wobbling against the truth. The
reference is the definition as published (davis2017-evaluation) in whole-frame array operations:
boundary map, dilation with a disk by OpenCV, counts. It makes its disk once for each frame, as the
official code does. Values must be equal to the last bit. Both sides take turns; figures are CPU
time and ratios within one run, so a slow or busy machine moves both.
"""

from __future__ import annotations

import math
import statistics
import sys
from functools import partial

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import argument_parser, cpu_seconds
from core.evaluation.metrics import j_and_f

HEIGHT = 480
WIDTH = 854
TOLERANCE = 0.008
REQUIRED = 4.0
# Shares of the frame of a small, a usual and a large object of the benchmarks.
SHARES = (0.012, 0.05, 0.106)


def reference(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of each frame of bool masks by the formulas, on whole frames."""
    inter_F = (pred_FHW & gt_FHW).sum(axis=(1, 2))
    union_F = (pred_FHW | gt_FHW).sum(axis=(1, 2))
    j_F = np.where(union_F > 0, inter_F / np.maximum(union_F, 1), 1.0)
    f_F = [boundary_f(pred, gt) for pred, gt in zip(pred_FHW, gt_FHW, strict=True)]
    return j_F, np.array(f_F)


def boundary_f(pred_HW: np.ndarray, gt_HW: np.ndarray) -> float:
    """Return F of one frame: boundary pixels matched within ceil(0.008 * diagonal) pixels."""
    radius = math.ceil(TOLERANCE * np.linalg.norm(pred_HW.shape))
    pred_edge = boundary(pred_HW)
    gt_edge = boundary(gt_HW)
    pred_near = cv2.dilate(pred_edge.astype(np.uint8), disk(radius)).astype(bool)
    gt_near = cv2.dilate(gt_edge.astype(np.uint8), disk(radius)).astype(bool)
    pred_count = pred_edge.sum()
    gt_count = gt_edge.sum()
    if pred_count == 0 or gt_count == 0:
        return float(pred_count == gt_count)
    precision = (pred_edge & gt_near).sum() / float(pred_count)
    recall = (gt_edge & pred_near).sum() / float(gt_count)
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels unlike their right, lower or lower right neighbour; beyond the border lies a copy."""
    padded = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
    east = padded[:-1, 1:]
    south = padded[1:, :-1]
    south_east = padded[1:, 1:]
    return (mask_HW != east) | (mask_HW != south) | (mask_HW != south_east)


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def moving_masks(share: float, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction, and its truth a few pixels off: an ellipse with a wavy rim."""
    rng = np.random.default_rng(seed)
    radius = math.sqrt(share * HEIGHT * WIDTH / math.pi)
    pred_FHW = np.zeros((frames, HEIGHT, WIDTH), dtype=bool)
    gt_FHW = np.zeros((frames, HEIGHT, WIDTH), dtype=bool)
    for frame in range(frames):
        cy = rng.uniform(0.35, 0.65) * HEIGHT
        cx = rng.uniform(0.3, 0.7) * WIDTH
        shift = rng.uniform(2, 12)
        gt_FHW[frame] = wavy_ellipse(cy, cx, radius, rng.uniform(0, 6))
        pred_FHW[frame] = wavy_ellipse(cy, cx + shift, radius, rng.uniform(0, 6))
    return pred_FHW, gt_FHW


def wavy_ellipse(cy: float, cx: float, radius: float, phase: float) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    angle = np.arctan2(y - cy, x - cx)
    rim = radius * (1 + 0.12 * np.sin(5 * angle + phase))
    return ((y - cy) / 0.8) ** 2 + ((x - cx) * 0.8) ** 2 <= rim**2


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--frames", type=int, default=40, help="of each clip")
    parser.add_argument("--repeats", type=int, default=7, help="of each pair, in turns")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    table = Table(
        "object, % of frame",
        "reference, ms/frame",
        "ours, ms/frame",
        "ratio: median",
        "smallest",
        "largest",
        title=f"J and F, {HEIGHT} x {WIDTH}, one thread, {arguments.repeats} pairs in turns",
    )
    medians = []
    for share in SHARES:
        pred_FHW, gt_FHW = moving_masks(share, arguments.frames, seed=round(1000 * share))
        expected = reference(pred_FHW, gt_FHW)
        found = j_and_f(pred_FHW, gt_FHW)
        assert np.array_equal(expected, found), "not equal to the last bit"

        reference_s = []
        ours_s = []
        for _ in range(arguments.repeats):
            reference_s.append(cpu_seconds(partial(reference, pred_FHW, gt_FHW)))
            ours_s.append(cpu_seconds(partial(j_and_f, pred_FHW, gt_FHW)))
        ratios = [a / b for a, b in zip(reference_s, ours_s, strict=True)]
        medians.append(statistics.median(ratios))
        table.add_row(
            f"{100 * gt_FHW.mean():.1f}",
            f"{1000 * statistics.median(reference_s) / arguments.frames:.2f}",
            f"{1000 * statistics.median(ours_s) / arguments.frames:.2f}",
            f"{medians[-1]:.1f}",
            f"{min(ratios):.1f}",
            f"{max(ratios):.1f}",
        )
    Console().print(table)
    if min(medians) < REQUIRED:
        sys.exit(f"the smallest ratio is {min(medians):.1f}, below {REQUIRED:g}")


if __name__ == "__main__":
    main()
