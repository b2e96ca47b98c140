"""Masks, boxes and areas against numpy on the decoded pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core import masks
from core.types import Sample, Target, Video


def numpy_box(mask_HW: np.ndarray) -> tuple[float, ...]:
    if not mask_HW.any():
        return (0.0, 0.0, 0.0, 0.0)
    y, x = np.nonzero(mask_HW)
    corners = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    return tuple(float(corner) for corner in corners)


def random_masks(seed: int, n: int, height: int, width: int) -> np.ndarray:
    """From empty to full; run-length boxes go wrong at columns from top to bottom."""
    rng = np.random.default_rng(seed)
    return rng.random((n, height, width)) < rng.choice([0.0, 0.01, 0.3, 0.9, 1.0], (n, 1, 1))


def test_encode_decode_box_area() -> None:
    for seed in range(60):
        mask_HW = random_masks(seed, 1, 1 + seed % 13, 1 + seed % 7)[0]
        rle = masks.encode(mask_HW)
        assert json.loads(json.dumps(rle)) == rle
        assert np.array_equal(masks.decode(rle), mask_HW)
        assert masks.decode(rle).dtype == bool
        assert masks.box(rle) == numpy_box(mask_HW)
        assert masks.area(rle) == mask_HW.sum()


def test_nonzero_is_foreground() -> None:
    mask_HW = np.array([[0, 255], [2, 0]], dtype=np.uint8)
    assert masks.area(masks.encode(mask_HW)) == 2


def test_union() -> None:
    for seed in range(30):
        masks_NHW = random_masks(seed, 3, 8, 11)
        rles = [masks.encode(mask_HW) for mask_HW in masks_NHW]
        union = masks.union([*rles, None])
        assert union is not None
        assert np.array_equal(masks.decode(union), masks_NHW.any(0))
    assert masks.union([]) is None
    assert masks.union([None, None]) is None


def test_frames_go_both_ways() -> None:
    masks_FHW = random_masks(4, 6, 9, 5)
    rles = masks.encode_frames(masks_FHW)
    assert rles == tuple(masks.encode(mask_HW) for mask_HW in masks_FHW)
    assert np.array_equal(
        masks.decode_frames([*rles, None], 9, 5),
        np.concatenate([masks_FHW, np.zeros((1, 9, 5))]),
    )
    assert masks.encode_frames(masks_FHW[:0]) == ()
    assert masks.decode_frames([], 9, 5).shape == (0, 9, 5)
    with pytest.raises(AssertionError, match=r"\[9, 5\] in a 5 x 9"):
        masks.decode_frames(rles, 5, 9)


def test_boxes_areas_of_the_union_of_targets() -> None:
    masks_OFHW = random_masks(5, 8, 10, 12).reshape(2, 4, 10, 12)
    masks_OFHW[:, 1] = False
    targets = []
    for number, masks_FHW in enumerate(masks_OFHW):
        rles = [masks.encode(mask_HW) if mask_HW.any() else None for mask_HW in masks_FHW]
        targets.append(Target(str(number), tuple(rles)))
    video = Video("v", "v", tuple("0123"), 10, 12)
    boxes_F4, areas_F = masks.boxes_areas(Sample("v/0", video, "both", tuple(targets)))
    union_FHW = np.any(masks_OFHW, axis=0)
    assert boxes_F4.dtype == np.float64
    assert boxes_F4.tolist() == [list(numpy_box(m)) for m in union_FHW]
    assert areas_F.tolist() == union_FHW.sum((1, 2)).tolist()


def test_no_targets_means_nothing_visible() -> None:
    boxes_F4, areas_F = masks.boxes_areas(
        Sample("v/0", Video("v", "v", tuple("012"), 10, 12), "none", ())
    )
    assert not boxes_F4.any()
    assert boxes_F4.shape == (3, 4)
    assert areas_F.tolist() == [0, 0, 0]
