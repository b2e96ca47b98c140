"""Boxes and points of masks checked by hand, and the file of the tables."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.masks import encode
from core.types import Target
from data.prepare.tables import (
    ABSENT,
    centre,
    centroid,
    load_tables,
    made_from,
    save_tables,
    table_from_json,
    table_to_json,
    target_table,
)

Box = tuple[int, int, int, int]


def _mask(*boxes: Box) -> np.ndarray:
    """Return a mask of 20 x 30 with these boxes filled."""
    mask_HW = np.zeros((20, 30), bool)
    for x0, y0, x1, y1 in boxes:
        mask_HW[y0:y1, x0:x1] = True
    return mask_HW


def test_the_centre_of_a_square_and_of_a_bar_is_in_the_middle() -> None:
    assert centre(_mask((5, 3, 12, 10))) == (8, 6)
    x, y = centre(_mask((2, 5, 25, 10)))
    # Not at an end, although every pixel of the axis is as far from the edge.
    assert abs(x - 13) <= 1
    assert y == 7


def test_the_centre_lies_on_a_ring_and_the_centroid_in_its_hole() -> None:
    drawn_HW = np.zeros((41, 41), np.uint8)
    cv2.circle(drawn_HW, (20, 20), 15, 1, 5)
    ring_HW = drawn_HW.astype(bool)
    x, y = centre(ring_HW)
    assert ring_HW[y, x]
    radius = np.hypot(x - 20, y - 20)
    assert abs(radius - 15) < 1.5
    assert centroid(ring_HW) == pytest.approx((20, 20), abs=0.1)
    assert not ring_HW[20, 20]


def test_the_thick_end_wins_over_the_long_tail() -> None:
    tail = (0, 8, 24, 10)
    end = (20, 4, 30, 14)
    x, y = centre(_mask(tail, end))
    assert 24 <= x <= 26
    assert 8 <= y <= 10


def test_the_edge_of_the_frame_counts_as_the_edge_of_the_object() -> None:
    assert centre(np.ones((9, 9), bool)) == (4, 4)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_pixel_of_a_mask_is_farther_from_its_outside(seed: int) -> None:
    """Against all distances, one by one."""
    rng = np.random.default_rng(seed)
    noise_HW = rng.random((11, 13)).astype(np.float32)
    smooth_HW = cv2.GaussianBlur(noise_HW, (5, 5), 1)
    mask_HW = smooth_HW > rng.uniform(0.45, 0.52)
    if not mask_HW.any():
        return

    padded = np.pad(mask_HW, 1)
    outside = np.argwhere(~padded)
    distances = {}
    for place in np.argwhere(padded):
        squared = ((place - outside) ** 2).sum(1)
        distances[tuple(place)] = np.sqrt(squared.min())
    x, y = centre(mask_HW)
    assert mask_HW[y, x]
    assert distances[y + 1, x + 1] == pytest.approx(max(distances.values()), abs=1e-2)


def _target(uid: str = "7") -> Target:
    """Return an object: a square, not there, two pieces, an empty mask."""
    square = encode(_mask((5, 3, 12, 10)))
    pieces = encode(_mask((0, 0, 3, 3), (28, 18, 30, 20)))
    empty = encode(_mask())
    return Target(uid, (square, None, pieces, empty))


def test_a_table_of_one_object() -> None:
    table = target_table("v", _target())
    no_box = [0, 0, 0, 0]
    no_point = [ABSENT, ABSENT]
    square = [5, 3, 12, 10]
    around_pieces = [0, 0, 30, 20]
    assert table.boxes_F4.tolist() == [square, no_box, around_pieces, no_box]
    assert table.areas_F.tolist() == [49, 0, 13, 0]
    assert table.centres_F2.tolist() == [[8, 6], no_point, [1, 1], no_point]
    assert table.centroids_F2[0].tolist() == [8, 6]


def test_the_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    first = target_table("v/1", _target("ä 7"))
    second = target_table("w", Target("8", (None,)))
    file = tmp_path / "made" / "tables.npz"
    save_tables(file, [first, second], "from here")
    loaded = load_tables(file)
    assert list(loaded) == [("v/1", "ä 7"), ("w", "8")]
    for table in (first, second):
        for name in ("boxes_F4", "areas_F", "centres_F2", "centroids_F2"):
            want = getattr(table, name)
            got = getattr(loaded[table.key], name)
            assert np.array_equal(want, got)
            assert want.dtype == got.dtype
    assert made_from(file) == "from here"
    save_tables(tmp_path / "none.npz", [])
    assert load_tables(tmp_path / "none.npz") == {}


def test_a_line_of_json_loses_nothing() -> None:
    mask_HW = _mask((5, 3, 12, 9), (20, 0, 21, 1))
    table = target_table("v", Target("7", (encode(mask_HW), None)))
    line = json.dumps(table_to_json(table))
    back = table_from_json(json.loads(line))
    for name in ("boxes_F4", "areas_F", "centres_F2", "centroids_F2"):
        assert np.array_equal(getattr(table, name), getattr(back, name))
        assert getattr(table, name).dtype == getattr(back, name).dtype
    assert back.key == ("v", "7")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"{}"])
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(ValueError, match="t.npz: not a table"):
        load_tables(tmp_path / "t.npz")
