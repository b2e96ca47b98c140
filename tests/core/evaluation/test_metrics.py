"""Metrics against slow, straight code.

J and F follow the definitions of the DAVIS benchmark (davis2017/metrics.py).
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.metrics import reference as benchmark_reference
from core.evaluation import metrics


def reference_boundary(mask_HW: np.ndarray) -> np.ndarray:
    """_seg2bmap: a boundary pixel differs from its east, south or south-east neighbour."""
    height, width = mask_HW.shape
    edge_HW = np.zeros((height, width), dtype=bool)
    for y in range(height):
        for x in range(width):
            south = min(y + 1, height - 1)
            east = min(x + 1, width - 1)
            neighbours = [mask_HW[y, east], mask_HW[south, x], mask_HW[south, east]]
            edge_HW[y, x] = any(bool(value) != bool(mask_HW[y, x]) for value in neighbours)
    return edge_HW


def within(edge_HW: np.ndarray, other_HW: np.ndarray, radius: int) -> int:
    """Number of boundary pixels within `radius` of the other boundary."""
    a_N2 = np.argwhere(edge_HW)
    b_M2 = np.argwhere(other_HW)
    distances_NM = ((a_N2[:, None] - b_M2[None]) ** 2).sum(-1)
    return int((distances_NM <= radius**2).any(1).sum())


def reference(pred_HW: np.ndarray, gt_HW: np.ndarray) -> tuple[float, float]:
    inter = (pred_HW & gt_HW).sum()
    union = (pred_HW | gt_HW).sum()
    j = 1.0 if union == 0 else inter / union
    radius = int(np.ceil(0.008 * np.linalg.norm(pred_HW.shape)))
    pred_edge = reference_boundary(pred_HW)
    gt_edge = reference_boundary(gt_HW)
    if not pred_edge.any() and not gt_edge.any():
        precision = 1.0
        recall = 1.0
    elif not pred_edge.any():
        precision = 1.0
        recall = 0.0
    elif not gt_edge.any():
        precision = 0.0
        recall = 1.0
    else:
        precision = within(pred_edge, gt_edge, radius) / float(pred_edge.sum())
        recall = within(gt_edge, pred_edge, radius) / float(gt_edge.sum())
    f = 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
    return float(j), float(f)


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Empty, full, a rectangle (often at a border), an ellipse, or noise."""
    kind = rng.integers(6)
    mask_HW = np.zeros((height, width), dtype=bool)
    y, x = np.mgrid[:height, :width]
    if kind == 1:
        mask_HW[:] = True
    elif kind == 2:
        y0, y1 = np.sort(rng.integers(0, height + 1, 2))
        x0, x1 = np.sort(rng.integers(0, width + 1, 2))
        mask_HW[y0:y1, x0:x1] = True
    elif kind in (3, 4):
        cy = rng.uniform(0, height)
        cx = rng.uniform(0, width)
        ry, rx = rng.uniform(1, 15, 2)
        mask_HW = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    elif kind == 5:
        mask_HW = rng.random((height, width)) < rng.choice([0.001, 0.02, 0.5])
    return mask_HW


def test_equal_to_the_definitions_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        height, width = (int(v) for v in rng.integers(1, 32, 2))
        gt_HW = random_mask(rng, height, width)
        # Half of the pairs overlap: there F is neither 0 nor 1.
        pred_HW = np.roll(gt_HW, tuple(rng.integers(-2, 3, 2)), (0, 1))
        if rng.random() >= 0.5:
            pred_HW = random_mask(rng, height, width)
        expected = reference(pred_HW, gt_HW)
        j_F, f_F = metrics.j_and_f(pred_HW[None], gt_HW[None])
        assert (j_F[0], f_F[0]) == expected, (height, width)
        assert metrics.jaccard(pred_HW[None], gt_HW[None])[0] == expected[0]
        # The code that the benchmark's ratio is against.
        j_F, f_F = benchmark_reference(pred_HW[None], gt_HW[None])
        assert (j_F[0], f_F[0]) == expected, (height, width)


def test_larger_image_with_a_wider_tolerance() -> None:
    y, x = np.mgrid[:150, :260]
    for cx, cy, r in ((60, 50, 20), (5, 140, 30), (255, 4, 12)):
        gt_HW = (x - cx) ** 2 + (y - cy) ** 2 <= r * r
        pred_HW = (x - cx - 4) ** 2 + (y - cy + 2) ** 2 <= (r + 1) ** 2
        j_F, f_F = metrics.j_and_f(pred_HW[None], gt_HW[None])
        assert (j_F[0], f_F[0]) == reference(pred_HW, gt_HW)
        assert 0.0 < f_F[0] < 1.0
        assert 0.5 < j_F[0] < 1.0


def test_empty_and_full_frames() -> None:
    empty = np.zeros((9, 9), dtype=bool)
    full = np.ones((9, 9), dtype=bool)
    one = np.zeros((9, 9), dtype=bool)
    one[4, 4] = True
    pred_FHW = np.stack([empty, one, empty, full, full])
    gt_FHW = np.stack([empty, empty, one, full, empty])
    assert metrics.jaccard(pred_FHW, gt_FHW).tolist() == [1, 0, 0, 1, 0]
    j_F, f_F = metrics.j_and_f(pred_FHW, gt_FHW)
    assert j_F.tolist() == [1, 0, 0, 1, 0]
    # A full frame has no boundary.
    assert f_F.tolist() == [1, 0, 0, 1, 1]
    assert metrics.mean_j_and_f(pred_FHW, gt_FHW) == pytest.approx((0.4, 0.6, 0.5))


def test_values_above_one_count_once() -> None:
    rng = np.random.default_rng(1)
    pred_FHW, gt_FHW = rng.random((2, 3, 20, 20)) < 0.3
    expected = metrics.j_and_f(pred_FHW, gt_FHW)
    scaled = metrics.j_and_f(pred_FHW.astype(np.uint8) * 255, gt_FHW.astype(np.int64) * 512)
    assert np.array_equal(expected, scaled)


def test_wrong_size_is_an_error_not_a_resize() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 5\).*\(2, 5, 4\).*resize"):
        metrics.jaccard(np.zeros((2, 4, 5)), np.zeros((2, 5, 4)))


def masks_of(seed: int, shape: tuple[int, int, int] = (3, 12, 17)) -> tuple[np.ndarray, np.ndarray]:
    pred_FHW, gt_FHW = np.random.default_rng(seed).random((2, *shape)) < 0.4
    return pred_FHW, gt_FHW


def test_ignored_pixels_count_nowhere() -> None:
    """Official J leaves void pixels out of both counts; official F clears them in both masks."""
    pred_FHW, gt_FHW = masks_of(2)
    ignore_FHW = np.random.default_rng(3).random(pred_FHW.shape) < 0.3
    pred_kept = metrics.without(pred_FHW, ignore_FHW)
    gt_kept = metrics.without(gt_FHW, ignore_FHW)
    j_F = metrics.jaccard(pred_kept, gt_kept)
    inter = pred_FHW & gt_FHW & ~ignore_FHW
    union = (pred_FHW | gt_FHW) & ~ignore_FHW
    assert np.array_equal(j_F, inter.sum((1, 2)) / union.sum((1, 2)))
    assert np.array_equal(metrics.without(pred_FHW, None), pred_FHW)


@pytest.mark.parametrize(("variant", "value"), [("binary", 1), ("visa255", 255)])
def test_accuracy_and_robustness_pixel_by_pixel(
    variant: metrics.ForegroundWeight, value: int
) -> None:
    pred_FHW, gt_FHW = masks_of(4)
    foreground_FHW = gt_FHW | (np.random.default_rng(5).random(gt_FHW.shape) < 0.5)
    # Nothing to see in the last frame.
    for masks_FHW in (pred_FHW, gt_FHW, foreground_FHW):
        masks_FHW[2] = False

    equal_F = np.zeros(3)
    wrong_F = np.zeros(3)
    for frame, y, x in np.ndindex(gt_FHW.shape):
        pred = value * int(pred_FHW[frame, y, x])
        gt = int(gt_FHW[frame, y, x])
        equal_F[frame] += pred == gt
        wrong_F[frame] += (1 - gt) * pred

    inter_F, union_F = metrics.overlap(pred_FHW, gt_FHW)
    area = gt_FHW[0].size
    accuracy_F = metrics.accuracy(inter_F, union_F, area, variant)
    assert accuracy_F == pytest.approx(equal_F / area, abs=1e-12)

    wrong_pixels_F = metrics.pixels(pred_FHW) - inter_F
    robustness_F = metrics.robustness(wrong_pixels_F, metrics.pixels(foreground_FHW), variant)
    expected_F = np.maximum(1 - wrong_F / (foreground_FHW.sum((1, 2)) + 1e-6), 0.0)
    assert robustness_F == pytest.approx(expected_F, abs=1e-12)
    assert robustness_F[2] == 1.0
    is_zero = robustness_F[0] == 0.0
    assert is_zero == (variant == "visa255"), "the case is meant to tell the two variants apart"


def test_iou_of_images() -> None:
    inter = [10.0, 0.0, 0.0]
    union = [20.0, 80.0, 0.0]
    assert metrics.g_iou(inter, union) == pytest.approx((0.5 + 0 + 1) / 3)
    assert metrics.g_iou(inter, union, empty=0.0) == pytest.approx((0.5 + 0 + 0) / 3)
    assert metrics.c_iou(inter, union) == pytest.approx(10 / 100)
    assert metrics.c_iou([0.0], [0.0]) == 1.0
    pred_FHW, gt_FHW = masks_of(6)
    inter_F, union_F = metrics.overlap(pred_FHW, gt_FHW)
    assert inter_F.tolist() == (pred_FHW & gt_FHW).sum((1, 2)).tolist()
    assert union_F.tolist() == (pred_FHW | gt_FHW).sum((1, 2)).tolist()


def test_iou_of_frames() -> None:
    pred_F = np.array([True, True, False, False, True])
    gt_F = np.array([False, True, True, False, True])
    assert metrics.frame_iou(pred_F, gt_F) == pytest.approx(2 / 4)
    nothing_F = np.zeros(5, dtype=bool)
    assert metrics.frame_iou(pred_F, nothing_F) == 0.0
    assert metrics.frame_iou(nothing_F, nothing_F) == 1.0


def test_keyframes() -> None:
    visible_F = np.array([False, True, True, False])
    assert metrics.keyframe_accuracy([1, 2], visible_F) == 1.0
    assert metrics.keyframe_accuracy([0, 1, 4], visible_F) == pytest.approx(1 / 3)
    assert metrics.keyframe_accuracy([], visible_F) == 0.0
