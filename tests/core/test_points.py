"""Points on and beside a mask."""

import numpy as np
import pytest

from core.points import inner_point, point_beside, resize_mask, scale_pixel


def test_inner_point_is_the_centre_of_the_thickest_part():
    mask_HW = np.zeros((40, 60), bool)
    mask_HW[10:31, 20:41] = True
    mask_HW[20, :] = True
    assert inner_point(mask_HW) == (30, 20)


def test_inner_point_lies_on_a_ring():
    y, x = np.mgrid[:41, :41]
    radius = np.hypot(y - 20, x - 20)
    ring = (radius > 8) & (radius < 16)
    px, py = inner_point(ring)
    assert ring[py, px]
    assert not ring[20, 20]


def test_the_image_edge_ends_an_object():
    assert inner_point(np.ones((21, 21), bool)) == (10, 10)
    one = np.zeros((5, 5), bool)
    one[4, 0] = True
    assert inner_point(one) == (0, 4)


def test_a_point_beside_is_near_its_own_object_and_off_all():
    rng = np.random.default_rng(0)
    own, other = np.zeros((2, 60, 80), bool)
    own[20:30, 20:30] = True
    other[20:30, 33:60] = True
    for _ in range(50):
        x, y = point_beside(own, own | other, 12, rng)
        distance = max(20 - x, 0, x - 29) + max(20 - y, 0, y - 29)
        assert 3 < distance <= 9
        assert not other[y, x]


def test_a_point_beside_takes_what_there_is():
    own = np.ones((10, 10), bool)
    own[0, 0] = False
    assert point_beside(own, own, 12, np.random.default_rng(0)) == (0, 0)
    assert (
        point_beside(np.ones((4, 4), bool), np.ones((4, 4), bool), 12, np.random.default_rng(0))
        is None
    )


def test_sizes():
    mask_HW = np.eye(3, dtype=bool)
    np.testing.assert_array_equal(
        resize_mask(mask_HW, (6, 9)), np.kron(mask_HW, np.ones((2, 3), bool))
    )
    assert [scale_pixel(x, 60, 840) for x in (0, 10, 59)] == [0, 140, 826]
    assert scale_pixel(59.99, 60, 84) == 83


def test_an_empty_mask_has_no_inner_point():
    with pytest.raises(AssertionError):
        inner_point(np.zeros((3, 3), bool))
