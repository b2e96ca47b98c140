"""Boxes and frame numbers, against values worked out by hand and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.geometry import Grid, scale_box, uniform_frames


def test_scale_box() -> None:
    assert scale_box((10, 20, 30, 40), (100, 200), (50, 400)) == (20, 10, 60, 20)
    there = scale_box((1, 2, 3, 4), (480, 854), (448, 448))
    assert scale_box(there, (448, 448), (480, 854)) == pytest.approx((1, 2, 3, 4))


def test_thousandths_by_hand() -> None:
    """Qwen3-VL's cookbook 2d_grounding: value / 1000 * side is the pixel."""
    grid = Grid((500, 2000), "thousandths")
    assert grid.size == (1000, 1000)
    assert grid.to_pixels((10, 20, 1000, 1000)) == (20, 10, 2000, 500)
    assert grid.from_pixels((20, 10)) == (10, 20)


def test_pixels_stay_as_they_are() -> None:
    numbers = (0.1, 2, 3.7)
    grid = Grid((500, 2000))
    assert grid.size == (500, 2000)
    assert grid.to_pixels(numbers) == numbers
    assert grid.from_pixels(numbers) == numbers


@given(st.integers(28, 4000), st.integers(28, 4000), st.lists(st.floats(0, 4000), max_size=6))
def test_there_and_back(height: int, width: int, numbers: list[float]) -> None:
    grid = Grid((height, width), "thousandths")
    assert grid.to_pixels(grid.from_pixels(numbers)) == pytest.approx(tuple(numbers))


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
    if len(gaps):
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
