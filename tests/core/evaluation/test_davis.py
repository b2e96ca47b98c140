"""Ref-DAVIS17, protocol of four annotators, against a search over all matchings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from core.evaluation import davis
from core.evaluation.metrics import j_and_f, mean_j_and_f
from core.masks import encode_frames

FRAMES = 4
HEIGHT = 24
WIDTH = 30
SHAPE = (FRAMES, HEIGHT, WIDTH)


def moving_box(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks_FHW = np.zeros(SHAPE, dtype=bool)
    y, x = rng.integers(0, 12, 2)
    for frame in range(FRAMES):
        left = x + 2 * frame
        top = y + frame
        masks_FHW[frame, top : top + 8, left : left + 9] = True
    return masks_FHW


def test_merge_is_the_argmax_over_a_background_of_a_tenth() -> None:
    objects_OFHW = np.stack([moving_box(seed) for seed in (0, 1, 2)])
    assert (objects_OFHW.sum(0) > 1).any(), "the case is meant to overlap"
    background = np.full((1, *SHAPE), 0.1)
    expected = np.concatenate([background, objects_OFHW.astype(float)]).argmax(0)
    labels_FHW = davis.merge([encode_frames(masks) for masks in objects_OFHW], HEIGHT, WIDTH)
    assert np.array_equal(labels_FHW, expected)


def test_merge_of_nothing_is_background() -> None:
    assert not davis.merge([(None,) * FRAMES], HEIGHT, WIDTH).any()


def test_best_of_all_matchings() -> None:
    truth = [moving_box(seed) for seed in (0, 5, 9)]
    # The first and the last swapped, one off, one too many.
    predicted = [encode_frames(moving_box(seed)) for seed in (9, 6, 0, 12)]
    labels_FHW = davis.merge(predicted, HEIGHT, WIDTH)
    j_O, f_O = davis.match(labels_FHW, [encode_frames(masks) for masks in truth])

    jf_LO3 = np.zeros((4, 3, 3))
    for label, column in np.ndindex(4, 3):
        jf_LO3[label, column] = mean_j_and_f(labels_FHW == label + 1, truth[column])
    columns = [0, 1, 2]
    orders = [list(order) for order in itertools.permutations(range(4), 3)]
    best = max(orders, key=lambda order: jf_LO3[order, columns, 2].sum())
    assert j_O == pytest.approx(jf_LO3[best, columns, 0])
    assert f_O == pytest.approx(jf_LO3[best, columns, 1])
    assert j_O[0] > 0.5, "swapped objects are matched"
    assert j_O[2] > 0.5, "swapped objects are matched"


def test_object_without_a_label_is_measured_against_nothing() -> None:
    labels_FHW = davis.merge([encode_frames(moving_box(0))], HEIGHT, WIDTH)
    truth = [encode_frames(moving_box(0)), encode_frames(moving_box(5))]
    j_O, f_O = davis.match(labels_FHW, truth)
    assert j_O.tolist() == [1.0, 0.0]
    assert f_O.tolist() == [1.0, 0.0]


def test_void_counts_nowhere() -> None:
    void_FHW = np.zeros(SHAPE, dtype=bool)
    void_FHW[:, :12] = True
    labels_FHW = davis.merge([encode_frames(moving_box(1))], HEIGHT, WIDTH)
    j_O, f_O = davis.match(labels_FHW, [encode_frames(moving_box(0))], void_FHW)
    j_F, f_F = j_and_f(moving_box(1) & ~void_FHW, moving_box(0) & ~void_FHW)
    assert j_O[0] == pytest.approx(j_F.mean())
    assert f_O[0] == pytest.approx(f_F.mean())


def test_mean_over_objects_then_annotators() -> None:
    objects = {"0": [(1.0, 0.0), (0.0, 0.5), (0.5, 0.4)], "1": [(0.1, 0.2)] * 3}
    table = davis.four_annotators(objects)
    assert table == pytest.approx({"J": 30.0, "F": 25.0, "J&F": 27.5})
