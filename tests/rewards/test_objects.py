"""Boxes and points against several true objects: by hand, and matching against all permutations."""

from itertools import permutations

import numpy as np
import pytest
import torch

from rewards.iou import mask_iou_table
from rewards.objects import (
    Thresholds,
    _pair_scores,
    box_l1,
    inside_own_box,
    matched_mean,
    pair_scores,
    point_distance,
)


def table(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_distance_of_boxes() -> None:
    boxes_R4 = table((0, 0, 10, 10), (4, 0, 10, 8))
    assert box_l1(boxes_R4, table((0, 0, 10, 10))).tolist() == [[0.0], [1.5]]


def test_distance_of_points_is_euclidean() -> None:
    assert point_distance(table((0, 0), (3, 0)), table((3, 4))).tolist() == [[5.0], [4.0]]


def test_points_on_the_edge_are_inside() -> None:
    boxes_R4 = table((0, 0, 10, 10)).repeat(4, 1)
    points_R2 = table((0, 10), (10.5, 5), (5, -0.1), (5, 5))
    assert inside_own_box(points_R2, boxes_R4).tolist() == [True, False, False, True]


def test_every_threshold_is_strict() -> None:
    truth_N4 = table((0, 0, 99, 99))
    truth_N2 = table((50, 50))
    # IoU .5 and above; a mean difference of 12.5, 12.25, 10 and 9.75 pixels.
    boxes_R4 = table((0, 0, 99, 49), (0, 0, 99, 50), (40, 0, 99, 99), (39, 0, 99, 99))
    # At 30 and 29 pixels, on the spot, and at 29.5 pixels outside of its own box.
    points_R2 = table((50, 20), (50, 21), (50, 50), (20.5, 50))
    scores_RN = pair_scores(boxes_R4, points_R2, truth_N4, truth_N2, Thresholds())
    iou = [0, 1, 1, 1]
    l1 = [0, 0, 0, 1]
    near = [0, 1, 1, 0]
    assert scores_RN[:, 0].tolist() == [sum(terms) for terms in zip(iou, l1, near, strict=True)]


def test_without_boxes_or_points() -> None:
    box = table((0, 0, 9, 9))
    point = table((100, 100))
    assert pair_scores(box, None, box, point, Thresholds()).tolist() == [[2]]
    assert pair_scores(None, point, box, point, Thresholds()).tolist() == [[1]]


def test_a_point_outside_its_own_box_earns_nothing() -> None:
    box = table((0, 0, 9, 9))
    point = table((100, 100))
    assert pair_scores(box, point, box, point, Thresholds()).tolist() == [[2]]


def test_a_device_scores_as_the_cpu_does() -> None:
    rng = np.random.default_rng(0)
    truth_N4 = torch.tensor(rng.integers(0, 60, size=(6, 4)).astype(float))
    truth_N2 = torch.tensor(rng.integers(0, 60, size=(6, 2)).astype(float))
    boxes = truth_N4.repeat(5, 1) + torch.tensor(rng.integers(-8, 9, (30, 4)))
    points = truth_N2.repeat(5, 1) + torch.tensor(rng.integers(-8, 9, (30, 2)))
    cases = ((boxes, points), (boxes, None), (None, points), (boxes[:0], points[:0]))
    for boxes_R4, points_R2 in cases:
        on_device = _pair_scores(Thresholds(), boxes_R4, points_R2, truth_N4, truth_N2, None)
        on_cpu = pair_scores(boxes_R4, points_R2, truth_N4, truth_N2, Thresholds())
        assert on_device.dtype == torch.float64
        assert torch.equal(on_device, on_cpu)


def test_ious_of_masks_take_the_place_of_those_of_boxes() -> None:
    truth_NHW = torch.zeros(2, 4, 6, dtype=torch.bool)
    truth_NHW[0, :2, :2] = True
    truth_NHW[1, :, 4:] = True
    left_HW = truth_NHW[0].numpy()
    both_HW = truth_NHW.any(dim=0).numpy()
    iou_RN = mask_iou_table([left_HW, None, both_HW, np.zeros((4, 6), dtype=bool)], truth_NHW)
    far_R4 = table((50, 50, 90, 90)).repeat(4, 1)
    truth_N4 = table((0, 0, 1, 1), (4, 0, 5, 3))
    truth_N2 = table((0, 0), (4, 2))
    scores_RN = pair_scores(far_R4, None, truth_N4, truth_N2, Thresholds(), iou_RN)
    assert scores_RN.tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]


def test_too_many_cost_as_much_as_too_few() -> None:
    three = table((3, 0), (0, 3), (0, 0))
    assert matched_mean(three, [3]).tolist() == [2.0]
    assert matched_mean(three[:1], [1]).tolist() == [1.5]
    assert matched_mean(three, [0, 1, 2, 0]).tolist() == [0, 1.5, 1.5, 0]
    assert matched_mean(torch.zeros(0, 2), [0, 0]).tolist() == [0, 0]


def test_greedy_matching_would_be_worse() -> None:
    assert matched_mean(table((3, 2), (2, 0)), [2]).item() == 2.0


def test_against_all_permutations() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        m, n = rng.integers(1, 5, size=2)
        scores_MN = rng.integers(0, 4, size=(m, n)).astype(float)
        wide = scores_MN if m <= n else scores_MN.T
        rows = range(len(wide))
        best = 0.0
        for columns in permutations(range(wide.shape[1]), len(wide)):
            best = max(best, float(wide[rows, columns].sum()))
        found = matched_mean(torch.tensor(scores_MN), [int(m)]).item()
        assert found == pytest.approx(best / max(m, n))
