"""J and F of `core.evaluation.metrics` against the published definition, interleaved in one run: `python benchmarks/metrics.py`.

One thread, 480 x 854, one object of a given share of the frame, wobbling against the truth. The reference is the
definition as published (davis2017-evaluation) in whole-frame array operations: boundary map, dilation with a disk by
OpenCV, counts; it makes its disk once for each frame, as the official code does. Values must be equal to the last bit.
CPU time, and ratios within one run: a slow or busy machine moves both sides.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from core.evaluation.metrics import j_and_f

HEIGHT = 480
WIDTH = 854
TOLERANCE = 0.008
REQUIRED = 4.0
SHARES = (
    0.012,
    0.05,
    0.106,
)  # of the frame: what a small, a usual and a large object of the benchmarks cover


def reference(pred_FHW: np.ndarray, gt_FHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F of each frame of bool masks by the formulas, on whole frames."""
    inter_F = (pred_FHW & gt_FHW).sum(axis=(1, 2))
    union_F = (pred_FHW | gt_FHW).sum(axis=(1, 2))
    j_F = np.where(union_F > 0, inter_F / np.maximum(union_F, 1), 1.0)
    return j_F, np.array([boundary_f(pred, gt) for pred, gt in zip(pred_FHW, gt_FHW, strict=True)])


def boundary_f(pred_HW: np.ndarray, gt_HW: np.ndarray) -> float:
    """F of one frame: boundary pixels matched within ceil(0.008 * diagonal) pixels."""
    radius = math.ceil(TOLERANCE * np.linalg.norm(pred_HW.shape))
    pred_edge = boundary(pred_HW)
    gt_edge = boundary(gt_HW)
    pred_near = cv2.dilate(pred_edge.astype(np.uint8), disk(radius)).astype(bool)
    gt_near = cv2.dilate(gt_edge.astype(np.uint8), disk(radius)).astype(bool)
    n_pred = pred_edge.sum()
    n_gt = gt_edge.sum()
    if n_pred == 0 or n_gt == 0:
        return float(n_pred == n_gt)
    precision = (pred_edge & gt_near).sum() / float(n_pred)
    recall = (gt_edge & pred_near).sum() / float(n_gt)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour; beyond the border lies a copy of it."""
    padded = np.pad(mask_HW, ((0, 1), (0, 1)), mode="edge")
    east = padded[:-1, 1:]
    south = padded[1:, :-1]
    south_east = padded[1:, 1:]
    return (mask_HW != east) | (mask_HW != south) | (mask_HW != south_east)


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def masks(share: float, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth, an ellipse with a wavy rim that moves about, and a prediction a few pixels off."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius = math.sqrt(share * HEIGHT * WIDTH / math.pi)
    pred_FHW, gt_FHW = np.zeros((2, frames, HEIGHT, WIDTH), dtype=bool)
    for frame in range(frames):
        cy = rng.uniform(0.35, 0.65) * HEIGHT
        cx = rng.uniform(0.3, 0.7) * WIDTH
        for out_HW, shift in ((gt_FHW[frame], 0.0), (pred_FHW[frame], rng.uniform(2, 12))):
            angle = np.arctan2(y - cy, x - cx - shift)
            rim = radius * (1 + 0.12 * np.sin(5 * angle + rng.uniform(0, 6)))
            out_HW[:] = ((y - cy) / 0.8) ** 2 + ((x - cx - shift) * 0.8) ** 2 <= rim**2
    return pred_FHW, gt_FHW


def seconds(work: Callable[[], object]) -> float:
    """Of CPU time, all threads of the process: another process on the machine does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=40, help="of each clip")
    parser.add_argument("--repeats", type=int, default=7, help="of each pair, interleaved")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    table = Table(
        "object, % of frame",
        "reference, ms/frame",
        "ours, ms/frame",
        "ratio: median",
        "smallest",
        "largest",
        title=f"J and F, {HEIGHT} x {WIDTH}, one thread, {arguments.repeats} interleaved pairs",
    )
    medians = []
    for share in SHARES:
        pred_FHW, gt_FHW = masks(share, arguments.frames, seed=round(1000 * share))
        expected = reference(pred_FHW, gt_FHW)
        found = j_and_f(pred_FHW, gt_FHW)
        assert all(np.array_equal(e, f) for e, f in zip(expected, found, strict=True)), (
            "not equal to the last bit"
        )
        slow = []
        fast = []
        for _ in range(arguments.repeats):
            slow.append(seconds(lambda p=pred_FHW, g=gt_FHW: reference(p, g)))  # type: ignore[misc]
            fast.append(seconds(lambda p=pred_FHW, g=gt_FHW: j_and_f(p, g)))  # type: ignore[misc]
        ratios = [s / f for s, f in zip(slow, fast, strict=True)]
        medians.append(statistics.median(ratios))
        ms = [1000 * statistics.median(t) / arguments.frames for t in (slow, fast)]
        row = [f"{100 * gt_FHW.mean():.1f}", f"{ms[0]:.2f}", f"{ms[1]:.2f}"]
        table.add_row(*row, f"{medians[-1]:.1f}", f"{min(ratios):.1f}", f"{max(ratios):.1f}")
    Console().print(table)
    if min(medians) < REQUIRED:
        sys.exit(f"the smallest ratio is {min(medians):.1f}, below {REQUIRED:g}")


if __name__ == "__main__":
    main()
