"""Boxes and points against several true objects: by hand, and matching against all permutations."""

from itertools import permutations

import numpy as np
import pytest
import torch

from rewards.objects import (
    Thresholds,
    _pair_scores,
    box_l1,
    inclusive_iou,
    inside_own_box,
    mask_ious,
    matched_mean,
    pair_scores,
    point_distance,
)


def table(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    "box, iou",
    [
        ((0, 0, 9, 9), 1.0),
        ((0, 0, 9, 4), 0.5),
        ((9, 9, 18, 18), 1 / 199),  # the shared corner is a pixel
        ((10, 10, 19, 19), 0.0),
        ((3, 3, 3, 3), 0.01),  # a box of one pixel
    ],
)
def test_iou_counts_the_last_row_and_column(box, iou):
    assert inclusive_iou(table(box), table((0, 0, 9, 9))).item() == pytest.approx(iou)


def test_reversed_boxes_are_no_hit():
    boxes = table((9, 9, 0, 0), (5, 0, 4, 9), (0, 9, 9, -90))
    assert not (inclusive_iou(boxes, table((0, 0, 9, 9), (3, 0, 6, 9))) > 0.5).any()


def test_distances():
    boxes = table((0, 0, 10, 10), (4, 0, 10, 8))
    assert box_l1(boxes, table((0, 0, 10, 10))).tolist() == [[0.0], [1.5]]
    assert point_distance(table((0, 0), (3, 0)), table((3, 4))).tolist() == [
        [5.0],
        [4.0],
    ]  # Euclidean


def test_points_on_the_edge_are_inside():
    boxes = table((0, 0, 10, 10)).repeat(4, 1)
    points = table((0, 10), (10.5, 5), (5, -0.1), (5, 5))
    assert inside_own_box(points, boxes).tolist() == [True, False, False, True]


def test_every_threshold_is_strict():
    truth_4 = table((0, 0, 99, 99))
    truth_2 = table((50, 50))
    boxes = table((0, 0, 99, 49), (0, 0, 99, 50), (40, 0, 99, 99), (39, 0, 99, 99))
    points = table(
        (80, 50), (79, 50), (50, 50), (20.5, 50)
    )  # the first's distance is 30, the last's box is elsewhere
    points = points.clone()
    points[0] = torch.tensor([50.0, 20.0])
    points[1] = torch.tensor([50.0, 21.0])
    scores = pair_scores(boxes, points, truth_4, truth_2, Thresholds())
    iou = [0, 1, 1, 1]
    l1 = [0, 0, 0, 1]
    near = [0, 1, 1, 0]
    assert scores[:, 0].tolist() == [a + b + c for a, b, c in zip(iou, l1, near, strict=True)]


def test_without_boxes_or_points():
    box = table((0, 0, 9, 9))
    point = table((100, 100))
    assert pair_scores(box, None, box, point, Thresholds()).tolist() == [[2]]
    assert pair_scores(None, point, box, point, Thresholds()).tolist() == [[1]]
    assert pair_scores(box, point, box, point, Thresholds()).tolist() == [
        [2]
    ]  # the point is outside its box


def test_a_device_scores_as_the_cpu_does():
    rng = np.random.default_rng(0)
    truth_4, truth_2 = (
        torch.tensor(rng.integers(0, 60, size=(6, n)).astype(float)) for n in (4, 2)
    )
    boxes, points = (
        t.repeat(5, 1) + torch.tensor(rng.integers(-8, 9, (30, t.shape[1])))
        for t in (truth_4, truth_2)
    )
    for b, p in ((boxes, points), (boxes, None), (None, points), (boxes[:0], points[:0])):
        on_device = _pair_scores(Thresholds(), b, p, truth_4, truth_2, None)
        assert on_device.dtype == torch.float64
        assert torch.equal(on_device, pair_scores(b, p, truth_4, truth_2, Thresholds()))


def test_ious_of_masks_take_the_place_of_those_of_boxes():
    truth_NHW = torch.zeros(2, 4, 6, dtype=torch.bool)
    truth_NHW[0, :2, :2] = True
    truth_NHW[1, :, 4:] = True
    left = truth_NHW[0].numpy()
    both = truth_NHW.any(dim=0).numpy()
    iou_RN = mask_ious([left, None, both, np.zeros((4, 6), dtype=bool)], truth_NHW)
    assert iou_RN.tolist() == [[1, 0], [0, 0], [4 / 12, 8 / 12], [0, 0]]
    assert mask_ious([], truth_NHW).shape == (0, 2)
    far = table((50, 50, 90, 90)).repeat(4, 1)
    truth_4 = table((0, 0, 1, 1), (4, 0, 5, 3))
    scores_RN = pair_scores(far, None, truth_4, table((0, 0), (4, 2)), Thresholds(), iou_RN)
    assert scores_RN.tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]


def test_too_many_cost_as_much_as_too_few():
    three = table((3, 0), (0, 3), (0, 0))
    assert matched_mean(three, [3]).tolist() == [2.0]
    assert matched_mean(three[:1], [1]).tolist() == [1.5]
    assert matched_mean(three, [0, 1, 2, 0]).tolist() == [0, 1.5, 1.5, 0]
    assert matched_mean(torch.zeros(0, 2), [0, 0]).tolist() == [0, 0]


def test_greedy_matching_would_be_worse():
    assert matched_mean(table((3, 2), (2, 0)), [2]).item() == 2.0


def test_against_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(50):
        m, n = rng.integers(1, 5, size=2)
        scores = rng.integers(0, 4, size=(m, n)).astype(float)
        wide = scores if m <= n else scores.T
        best = max(
            sum(wide[i, j] for i, j in enumerate(p))
            for p in permutations(range(wide.shape[1]), len(wide))
        )
        assert matched_mean(torch.tensor(scores), [int(m)]).item() == pytest.approx(
            best / max(m, n)
        )
