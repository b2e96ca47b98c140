"""Ref-DAVIS17, protocol of four annotators, against a search over all matchings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from core.evaluation import davis
from core.evaluation.metrics import j_and_f, mean_j_and_f
from core.masks import encode_frames
from core.types import Rle

SHAPE = (4, 24, 30)


def clip(seed: int) -> np.ndarray:
    """A box that moves."""
    rng = np.random.default_rng(seed)
    masks_FHW, y, x = np.zeros(SHAPE, bool), *rng.integers(0, 12, 2)
    for frame in range(SHAPE[0]):
        masks_FHW[frame, y + frame : y + frame + 8, x + 2 * frame : x + 2 * frame + 9] = True
    return masks_FHW


def rles(masks_FHW: np.ndarray) -> tuple[Rle | None, ...]:
    return encode_frames(masks_FHW)


def merged_pixel_by_pixel(objects_OFHW: np.ndarray) -> np.ndarray:
    """argmax of a background of 0.1 and the objects' binary masks."""
    scores = np.concatenate([np.full((1, *SHAPE), 0.1), objects_OFHW.astype(float)])
    return scores.argmax(0)


def test_merge() -> None:
    objects = np.stack([clip(0), clip(1), clip(2)])
    assert (objects.sum(0) > 1).any(), "the case is meant to overlap"
    labels = davis.merge([rles(o) for o in objects], *SHAPE[1:])
    assert np.array_equal(labels, merged_pixel_by_pixel(objects))
    assert not davis.merge([(None,) * 4], *SHAPE[1:]).any()


def test_best_of_all_matchings() -> None:
    truth = [clip(0), clip(5), clip(9)]
    labels = davis.merge(
        [rles(clip(s)) for s in (9, 6, 0, 12)], *SHAPE[1:]
    )  # swapped, one off, one too many
    j_O, f_O = davis.match(labels, [rles(t) for t in truth])
    values = np.array([[mean_j_and_f(labels == n, t) for t in truth] for n in range(1, 5)])
    best = max(
        itertools.permutations(range(4), 3),
        key=lambda order: sum(values[r, c, 2] for c, r in enumerate(order)),
    )
    assert j_O == pytest.approx([values[r, c, 0] for c, r in enumerate(best)])
    assert f_O == pytest.approx([values[r, c, 1] for c, r in enumerate(best)])
    assert j_O[0] > 0.5, "swapped objects are matched"
    assert j_O[2] > 0.5, "swapped objects are matched"


def test_object_without_a_label_is_measured_against_nothing() -> None:
    truth = [clip(0), clip(5)]
    labels = davis.merge([rles(clip(0))], *SHAPE[1:])
    j_O, f_O = davis.match(labels, [rles(t) for t in truth])
    assert j_O.tolist() == [1.0, 0.0]
    assert f_O.tolist() == [1.0, 0.0]


def test_void_counts_nowhere() -> None:
    void = np.zeros(SHAPE, bool)
    void[:, :12] = True
    labels = davis.merge([rles(clip(1))], *SHAPE[1:])
    j_O, f_O = davis.match(labels, [rles(clip(0))], void)
    j_F, f_F = j_and_f(clip(1) & ~void, clip(0) & ~void)
    assert j_O[0] == pytest.approx(j_F.mean())
    assert f_O[0] == pytest.approx(f_F.mean())


def test_mean_over_objects_then_annotators() -> None:
    table = davis.four_annotators(
        {"0": [(1.0, 0.0), (0.0, 0.5), (0.5, 0.4)], "1": [(0.1, 0.2)] * 3}
    )
    assert table == pytest.approx({"J": 30.0, "F": 25.0, "J&F": 27.5})
