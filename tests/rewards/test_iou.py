"""IoU of boxes and masks by hand, in each convention."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.iou import box_iou, inclusive_box_iou, mask_iou, mask_iou_table


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ((0, 0, 10, 10), 1.0),
        ((0, 0, 10, 5), 0.5),
        ((5, 0, 15, 10), 1 / 3),
        pytest.param((10, 0, 20, 10), 0.0, id="they touch"),
        ((30, 30, 40, 40), 0.0),
        pytest.param((4, 4, 4, 8), 0.0, id="a line"),
        pytest.param((10, 10, 0, 0), 0.0, id="reversed"),
    ],
)
def test_box_iou_by_hand(box: tuple[float, ...], iou: float) -> None:
    assert box_iou(boxes(box), boxes((0, 0, 10, 10))).item() == pytest.approx(iou)


def test_box_iou_of_pairs_in_order() -> None:
    a_N4 = boxes((0, 0, 4, 4), (0, 0, 4, 4), (0, 0, 4, 4), (8, 8, 2, 2))
    b_N4 = boxes((0, 0, 4, 4), (2, 0, 6, 4), (1, 1, 10, 10), (2, 2, 8, 8))
    assert box_iou(a_N4, b_N4).tolist() == pytest.approx([1, 1 / 3, 9 / (16 + 81 - 9), 0])


def test_box_iou_of_an_absent_target_or_box() -> None:
    nothing = boxes((0, 0, 0, 0))
    something = boxes((0, 0, 10, 10))
    assert box_iou(nothing, something).tolist() == [0.0]
    assert box_iou(something, nothing).tolist() == [0.0]
    assert box_iou(nothing, nothing).tolist() == [0.0]


def pixels_of(box: tuple[int, int, int, int]) -> np.ndarray:
    mask_HW = np.zeros((12, 12), dtype=bool)
    x0, y0, x1, y1 = box
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


corner = st.integers(0, 12)
Corners = tuple[int, int, int, int]


@given(st.tuples(corner, corner, corner, corner), st.tuples(corner, corner, corner, corner))
def test_box_iou_counts_pixels(a: Corners, b: Corners) -> None:
    a_HW = pixels_of(a)
    b_HW = pixels_of(b)
    union = (a_HW | b_HW).sum()
    expected = (a_HW & b_HW).sum() / union if union else 0.0
    assert box_iou(boxes(a), boxes(b)).item() == pytest.approx(expected)


number = st.floats(0, 100, allow_subnormal=False)


@given(st.tuples(number, number, number, number), st.floats(0.1, 10), st.floats(0.1, 10))
def test_box_iou_does_not_change_when_the_axes_are_stretched(
    box: tuple[float, ...], across: float, down: float
) -> None:
    truth = boxes((10, 20, 60, 80))
    stretch = torch.tensor([across, down, across, down], dtype=torch.float64)
    before = box_iou(boxes(box), truth).item()
    after = box_iou(boxes(box) * stretch, truth * stretch).item()
    assert 0 <= before <= 1
    assert after == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ((0, 0, 9, 9), 1.0),
        ((0, 0, 9, 4), 0.5),
        pytest.param((9, 9, 18, 18), 1 / 199, id="the shared corner is a pixel"),
        ((10, 10, 19, 19), 0.0),
        pytest.param((3, 3, 3, 3), 0.01, id="a box of one pixel"),
    ],
)
def test_inclusive_iou_counts_the_last_row_and_column(box: tuple[float, ...], iou: float) -> None:
    assert inclusive_box_iou(boxes(box), boxes((0, 0, 9, 9))).item() == pytest.approx(iou)


def test_inclusive_iou_of_reversed_boxes_is_no_hit() -> None:
    reversed_boxes = boxes((9, 9, 0, 0), (5, 0, 4, 9), (0, 9, 9, -90))
    iou_RN = inclusive_box_iou(reversed_boxes, boxes((0, 0, 9, 9), (3, 0, 6, 9)))
    assert not (iou_RN > 0.5).any()


def test_mask_iou_of_pairs() -> None:
    masks_NHW = torch.tensor(
        [[[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]],
    ).bool()
    truth_NHW = torch.tensor(
        [[[1, 0], [1, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]],
    ).bool()
    assert mask_iou(masks_NHW, truth_NHW, 1.0).tolist() == pytest.approx([1 / 3, 1, 1, 0])
    zeros_N = torch.tensor([0.0, 0, 0, 0])
    assert mask_iou(masks_NHW, truth_NHW, zeros_N).tolist() == pytest.approx([1 / 3, 1, 0, 0])


def test_mask_iou_of_every_pair() -> None:
    truth_NHW = torch.zeros(2, 4, 6, dtype=torch.bool)
    truth_NHW[0, :2, :2] = True
    truth_NHW[1, :, 4:] = True
    left_HW = truth_NHW[0].numpy()
    both_HW = truth_NHW.any(dim=0).numpy()
    empty_HW = np.zeros((4, 6), dtype=bool)
    iou_RN = mask_iou_table([left_HW, None, both_HW, empty_HW], truth_NHW)
    assert iou_RN.tolist() == [[1, 0], [0, 0], [4 / 12, 8 / 12], [0, 0]]
    assert mask_iou_table([], truth_NHW).shape == (0, 2)
