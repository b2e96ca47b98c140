"""Boxes and frame numbers, against values worked out by hand and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.geometry import box_iou, scale_box, uniform_frames

coordinate = st.integers(0, 20)


def test_box_iou_by_hand() -> None:
    a_N4 = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 4, 4], [3, 3, 3, 9], [0, 0, 0, 0]])
    b_N4 = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [4, 0, 8, 4], [0, 0, 9, 9], [0, 0, 0, 0]])
    assert box_iou(a_N4, b_N4) == pytest.approx([1, 1 / 3, 0, 0, 0])
    assert box_iou(a_N4[0], b_N4) == pytest.approx([1, 1 / 3, 16 / 100, 81 / 100, 0])


def test_an_inverted_box_is_empty() -> None:
    assert box_iou(np.array([8, 8, 2, 2]), np.array([2, 2, 8, 8])) == 0


@given(st.tuples(*[coordinate] * 4), st.tuples(*[coordinate] * 4))
def test_box_iou_counts_pixels(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    masks = np.zeros((2, 20, 20), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, (a, b), strict=True):
        mask[y0:y1, x0:x1] = True
    inter = (masks[0] & masks[1]).sum()
    union = (masks[0] | masks[1]).sum()
    assert float(box_iou(np.array(a), np.array(b))) == pytest.approx(
        inter / union if union else 0.0
    )


def test_scale_box() -> None:
    assert scale_box((10, 20, 30, 40), (100, 200), (50, 400)) == (20, 10, 60, 20)
    there = scale_box((1, 2, 3, 4), (480, 854), (448, 448))
    assert scale_box(there, (448, 448), (480, 854)) == pytest.approx((1, 2, 3, 4))


def test_uniform_frames_by_hand() -> None:
    assert uniform_frames(24, 4) == [3, 9, 15, 21]
    assert uniform_frames(3, 16) == [0, 1, 2]
    assert uniform_frames(5, 1) == [2]


@given(st.integers(1, 400), st.integers(1, 64))
def test_uniform_frames_are_distinct_and_even(num_frames: int, n: int) -> None:
    frames = uniform_frames(num_frames, n)
    assert len(frames) == min(n, num_frames)
    assert frames[0] >= 0
    assert frames[-1] < num_frames
    gaps = np.diff(frames)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
