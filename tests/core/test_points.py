"""Points on and beside a mask."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from core.points import inner_point, point_beside, resize_mask, scale_pixel


def diamond(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    centre = (side - 1) / 2
    return abs(y - centre) + abs(x - centre) <= centre


def bar(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), dtype=bool)


def test_inner_point_is_the_centre_of_the_thickest_part() -> None:
    mask_HW = np.zeros((40, 60), dtype=bool)
    mask_HW[10:31, 20:41] = True
    mask_HW[20, :] = True
    assert inner_point(mask_HW) == (30, 20)


def test_inner_point_lies_on_a_ring() -> None:
    y, x = np.mgrid[:41, :41]
    radius = np.hypot(y - 20, x - 20)
    ring_HW = (radius > 8) & (radius < 16)
    px, py = inner_point(ring_HW)
    assert ring_HW[py, px]
    assert not ring_HW[20, 20]


def test_the_image_edge_ends_an_object() -> None:
    assert inner_point(bar(21, 21)) == (10, 10)
    corner_HW = np.zeros((5, 5), dtype=bool)
    corner_HW[4, 0] = True
    assert inner_point(corner_HW) == (0, 4)


@pytest.mark.parametrize(
    ("mask_HW", "point"),
    [(diamond(40), (19, 19)), (diamond(41), (20, 20)), (bar(20, 31), (9, 9)), (bar(9, 4), (1, 1))],
    ids=["even diamond", "odd diamond", "wide bar", "high bar"],
)
def test_inner_point_does_not_depend_on_the_last_bit_of_a_distance(
    mask_HW: np.ndarray, point: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact: Callable[..., np.ndarray] = cv2.distanceTransform
    rng = np.random.default_rng(0)

    def off_by_a_bit(*arguments: object) -> np.ndarray:
        """OpenCV's distances, each moved by up to one float32 step, as unaligned memory does."""
        distance_HW = exact(*arguments)
        up_HW = np.nextafter(distance_HW, np.float32(np.inf))
        down_HW = np.nextafter(distance_HW, np.float32(0))
        choice_HW = rng.integers(0, 3, distance_HW.shape)
        return np.choose(choice_HW, [down_HW, distance_HW, up_HW])

    assert inner_point(mask_HW) == point
    monkeypatch.setattr(cv2, "distanceTransform", off_by_a_bit)
    assert {inner_point(mask_HW) for _ in range(200)} == {point}


def test_inner_point_is_the_same_at_any_alignment() -> None:
    for mask_HW in (diamond(41), bar(20, 31)):
        points = set()
        kept = []
        for size in range(200):
            # Allocations of odd sizes in between move the buffers of the next call.
            kept.append(np.empty(17 * size + 1, dtype=np.uint8))
            buffer = np.zeros(mask_HW.size + 64, dtype=bool)
            moved_HW = buffer[size % 64 :][: mask_HW.size].reshape(mask_HW.shape)
            moved_HW[:] = mask_HW
            points.add(inner_point(moved_HW))
        assert len(points) == 1


def test_an_empty_mask_has_no_inner_point() -> None:
    with pytest.raises(AssertionError):
        inner_point(np.zeros((3, 3), dtype=bool))


def test_a_point_beside_is_near_its_own_object_and_off_all() -> None:
    rng = np.random.default_rng(0)
    own_HW = np.zeros((60, 80), dtype=bool)
    other_HW = np.zeros((60, 80), dtype=bool)
    own_HW[20:30, 20:30] = True
    other_HW[20:30, 33:60] = True
    for _ in range(50):
        point = point_beside(own_HW, own_HW | other_HW, 12, rng)
        assert point is not None
        x, y = point
        distance = max(20 - x, 0, x - 29) + max(20 - y, 0, y - 29)
        assert 3 < distance <= 9
        assert not other_HW[y, x]


def test_a_point_beside_takes_any_pixel_left() -> None:
    rng = np.random.default_rng(0)
    own_HW = np.ones((10, 10), dtype=bool)
    own_HW[0, 0] = False
    assert point_beside(own_HW, own_HW, 12, rng) == (0, 0)


def test_no_point_beside_objects_that_fill_the_image() -> None:
    full_HW = np.ones((4, 4), dtype=bool)
    assert point_beside(full_HW, full_HW, 12, np.random.default_rng(0)) is None


def test_sizes() -> None:
    mask_HW = np.eye(3, dtype=bool)
    enlarged_HW = np.kron(mask_HW, np.ones((2, 3), dtype=bool))
    np.testing.assert_array_equal(resize_mask(mask_HW, (6, 9)), enlarged_HW)
    assert [scale_pixel(x, 60, 840) for x in (0, 10, 59)] == [0, 140, 826]
    assert scale_pixel(59.99, 60, 84) == 83
