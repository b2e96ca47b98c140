"""GrabCut without weights: quality on synthetic scenes, absence, repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from core.types import MaskPrompt
from models.segmenters import make
from models.segmenters.grabcut import GrabCutSegmenter
from tests.models.segmenters.test_sam2 import tracks


def test_it_segments_follows_and_knows_absence() -> None:
    first = []
    later = []
    absent = []
    for made, thing, frame in tracks(12, seed=99):
        truth_FHW = made.owner_FHW == thing
        box = tuple(float(v) for v in made.boxes_OF4[thing, frame])
        masks_FHW = GrabCutSegmenter().segment(made.frames_FHWC, [MaskPrompt(frame, box)])[0]  # type: ignore[arg-type]
        j_F = (masks_FHW & truth_FHW).sum((1, 2)) / np.maximum(
            (masks_FHW | truth_FHW).sum((1, 2)), 1
        )
        first.append(j_F[frame])
        absent.extend(~masks_FHW[~truth_FHW.any((1, 2))].any((1, 2)))
        later.extend(j_F[(made.areas_OF[thing] > 0) & (np.arange(len(j_F)) != frame)])
    assert np.mean(first) >= 0.9
    assert np.mean(later) >= 0.75
    assert np.mean(absent) >= 0.9


def film() -> np.ndarray:
    """A red square on grey that leaves after frame 3."""
    frames = np.full((6, 48, 64, 3), 90, np.uint8)
    frames += np.random.default_rng(0).integers(0, 8, frames.shape, dtype=np.uint8)
    for t in range(4):
        frames[t, 10:30, 5 + 4 * t : 25 + 4 * t] = (200, 30, 30)
    return frames


def test_an_object_that_leaves_is_absent_and_one_that_comes_is_not_there_before() -> None:
    frames = film()
    forward = GrabCutSegmenter().segment(frames, [MaskPrompt(1, (9.0, 10.0, 29.0, 30.0))])[0]
    assert [m.sum() for m in forward] == [400, 400, 400, 400, 0, 0]
    backward = GrabCutSegmenter().segment(frames[::-1], [MaskPrompt(3, (13.0, 10.0, 33.0, 30.0))])[
        0
    ]
    np.testing.assert_array_equal(backward, forward[::-1])


def test_points_choose_the_object_and_the_result_repeats() -> None:
    frames = film()
    prompt = MaskPrompt(0, None, ((14.0, 20.0), (40.0, 40.0)), (1, 0))
    masks = [make("grabcut", {}).segment(frames, [prompt]) for _ in range(2)]
    np.testing.assert_array_equal(masks[0], masks[1])
    truth = np.zeros((48, 64), bool)
    truth[10:30, 5:25] = True
    assert (masks[0][0, 0] & truth).sum() / (masks[0][0, 0] | truth).sum() > 0.5


def test_degenerate_prompts() -> None:
    frames = film()
    segmenter = GrabCutSegmenter()
    assert not segmenter.segment(
        frames, [MaskPrompt(0, (5.0, 5.0, 5.0, 9.0)), MaskPrompt(0, None)]
    ).any()
    assert segmenter.segment(frames, [MaskPrompt(0, (0.0, 0.0, 64.0, 48.0))])[
        0, 0
    ].all()  # nothing to tell it from
    with pytest.raises(ValueError, match="frame 6 of a video of 6"):
        segmenter.segment(frames, [MaskPrompt(6, (1.0, 1.0, 9.0, 9.0))])
