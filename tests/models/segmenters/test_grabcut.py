"""GrabCut without weights: quality on synthetic scenes, absence, repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from core.types import MaskPrompt
from models.segmenters import make
from models.segmenters.grabcut import GrabCutSegmenter
from tests.models.segmenters.test_sam2 import box_of, frame_ious, tracks


def test_it_segments_follows_and_knows_absence() -> None:
    first = []
    later = []
    absent = []
    for made, thing, frame in tracks(12, seed=99):
        truth_FHW = made.owner_FHW == thing
        prompt = MaskPrompt(frame, box_of(made, thing, frame))
        masks_FHW = GrabCutSegmenter().segment(made.frames_FHWC, [prompt])[0]
        j_F = frame_ious(masks_FHW, truth_FHW)
        first.append(j_F[frame])

        is_absent_F = ~truth_FHW.any((1, 2))
        absent.extend(~masks_FHW[is_absent_F].any((1, 2)))
        seen_F = made.areas_OF[thing] > 0
        seen_F[frame] = False
        later.extend(j_F[seen_F])
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
    on_second = MaskPrompt(1, (9.0, 10.0, 29.0, 30.0))
    forward = GrabCutSegmenter().segment(frames, [on_second])[0]
    assert [mask.sum() for mask in forward] == [400, 400, 400, 400, 0, 0]

    on_fourth = MaskPrompt(3, (13.0, 10.0, 33.0, 30.0))
    backward = GrabCutSegmenter().segment(frames[::-1], [on_fourth])[0]
    np.testing.assert_array_equal(backward, forward[::-1])


def test_points_choose_the_object_and_the_result_repeats() -> None:
    frames = film()
    prompt = MaskPrompt(0, None, ((14.0, 20.0), (40.0, 40.0)), (1, 0))
    masks = [make("grabcut", {}).segment(frames, [prompt]) for _ in range(2)]
    np.testing.assert_array_equal(masks[0], masks[1])
    truth = np.zeros((48, 64), bool)
    truth[10:30, 5:25] = True
    found = masks[0][0, 0]
    assert (found & truth).sum() / (found | truth).sum() > 0.5


def test_degenerate_prompts() -> None:
    frames = film()
    segmenter = GrabCutSegmenter()
    flat_box = MaskPrompt(0, (5.0, 5.0, 5.0, 9.0))
    nothing = MaskPrompt(0, None)
    assert not segmenter.segment(frames, [flat_box, nothing]).any()

    # A box as large as the frame leaves no background to learn from.
    whole_frame = MaskPrompt(0, (0.0, 0.0, 64.0, 48.0))
    assert segmenter.segment(frames, [whole_frame])[0, 0].all()
    with pytest.raises(ValueError, match="frame 6 of a video of 6"):
        segmenter.segment(frames, [MaskPrompt(6, (1.0, 1.0, 9.0, 9.0))])
