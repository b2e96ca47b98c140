"""Boxes and frame numbers, against values worked out by hand and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.geometry import scale_box, uniform_frames


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
    if len(gaps):
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
