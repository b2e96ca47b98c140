"""Mask targets of the learner, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from actors.drawing import DrawBatch, draw_batch, mask_targets, masks_by_episode, tracking_prompts
from actors.objective import grpo_loss
from configs.schema import Config, MaskConfig
from core.drawing.requests import DrawnMask, DrawnPrompt, DrawRequest, SampledMask
from core.types import Answer, End, Episode, MaskPrompt, SegPrompt
from tests.actors.drawing_cases import FINAL, KEY, SEEN, SEGS, sample, truth, video
from tests.models.seg_cases import case


def episode(segs: Sequence[SegPrompt] = SEGS, end: End = End.DONE) -> Episode:
    return Episode("v/0", (), end, Answer(segs=tuple(segs)))


@cache
def drawn_mask(number: int, prompt: DrawnPrompt | None = None) -> DrawnMask:
    """Return a mask with the log-likelihood -number."""
    bits = np.full((2, 2), number % 2 == 0)
    return DrawnMask(truth(), SampledMask(bits, -float(number)), prompt)


# Two groups of two episodes. The second episode of the first group failed.
FAILED = Episode("v/0", (), End.FAILED, error="died")
GROUPS = [[episode(), FAILED], [episode((KEY,)), episode()]]
DRAWN = [
    ((drawn_mask(0), drawn_mask(1), None), ()),
    ((drawn_mask(2),), (drawn_mask(3), drawn_mask(4), None)),
]
SAMPLES = [sample(video())] * 2
TOKEN = MaskConfig("[SEG]")


def learned(**changes: Any) -> DrawBatch | None:
    return mask_targets(SAMPLES, GROUPS, DRAWN, replace(TOKEN, **changes))


def requests_of(batch: DrawBatch | None) -> tuple[DrawRequest, ...]:
    assert batch is not None
    return batch.requests


def test_keyframes_are_calibrated_and_every_rewarded_frame_has_its_truth() -> None:
    found = learned()
    requests = requests_of(found)
    places = [(request.episode, request.prompt) for request in requests]
    assert places == [(0, KEY), (0, SEEN), (2, KEY), (3, KEY), (3, SEEN)]
    logliks = [request.sampled and request.sampled.loglik for request in requests]
    assert logliks == [0.0, None, -2.0, -3.0, None]
    assert [request.truth for request in requests] == [truth(), None, truth(), truth(), None]

    # That of a whole role; the learner divides it by the masks of its batch.
    assert {request.weight for request in requests} == {0.2}
    assert found is not None
    assert set(found.frames.values()) == {(video(), 1), (video(), 2), (video(), 3)}


def test_nothing_is_learned_if_both_losses_are_off() -> None:
    assert learned(calibration=0.0, loss=0.0) is None


def test_truths_alone_are_learned_without_calibration() -> None:
    requests = requests_of(learned(calibration=0.0))
    assert [request.sampled for request in requests] == [None] * 5
    assert all(request.weight for request in requests)


def test_keyframes_alone_are_learned_without_the_mask_loss() -> None:
    requests = requests_of(learned(loss=0.0))
    assert [request.prompt for request in requests] == [KEY] * 3
    assert not any(request.weight for request in requests)


def test_demonstrations_have_no_sampled_masks() -> None:
    requests = requests_of(mask_targets(SAMPLES, GROUPS, None, TOKEN))
    assert [request.sampled for request in requests] == [None] * 5


def test_an_answer_without_seg_tokens_has_no_targets() -> None:
    assert requests_of(mask_targets(SAMPLES[:1], [[episode(())]], [((),)], TOKEN)) == ()


def test_a_sample_without_a_target_is_true_nowhere() -> None:
    empty = replace(sample(video()), targets=())
    drawn = [((drawn_mask(0), drawn_mask(1), None),)]
    requests = requests_of(mask_targets([empty], [[episode()]], drawn, TOKEN))
    assert [request.truth for request in requests] == [None, None]
    assert all(request.weight for request in requests)


def test_masks_return_to_the_episodes_that_asked_for_them() -> None:
    found = {
        (0, KEY): drawn_mask(0),
        (0, SEEN): drawn_mask(1),
        (2, KEY): drawn_mask(2),
        (3, KEY): drawn_mask(3),
        (3, SEEN): drawn_mask(4),
    }
    assert masks_by_episode(found, GROUPS) == DRAWN


def test_all_roles_are_drawn_unless_some_are_named() -> None:
    videos = [video()] * 2
    everything = draw_batch(videos, GROUPS).requests
    assert [request.prompt for request in everything].count(FINAL) == 2
    keyframes = draw_batch(videos, GROUPS, ["keyframe"]).requests
    assert {request.prompt for request in keyframes} == {KEY}


def test_a_segmenter_tracks_prompts_and_masks_drawn_for_it() -> None:
    box = MaskPrompt(0, (1.0, 2.0, 3.0, 4.0))
    drawn = DrawnPrompt(2, np.ones((4, 4), np.float32))
    both = Episode("v/0", (), End.DONE, Answer((box,), segs=SEGS))
    masks = (drawn_mask(0), None, drawn_mask(1, drawn))
    assert tracking_prompts(both, masks) == (box, drawn)
    assert tracking_prompts(both, ()) == (box,)


def test_the_kl_term_is_about_text_alone() -> None:
    """A calibrated log-prob includes the drawn mask, but the reference has drawn none."""
    rows, _, _, _ = case()
    row = rows[0]
    text_N = torch.full((len(row.target_N),), -1.5)
    calibrated_N = (text_N - 0.3).requires_grad_()
    given: dict[str, Any] = {
        "old_N": calibrated_N.detach(),
        "reference_N": text_N,
        "off_policy": False,
    }
    cfg = replace(Config().grpo, kl_coef=0.1)
    loss, stats = grpo_loss(calibrated_N, text_N, row, cfg, **given, text_N=text_N)
    assert stats.ratios is not None
    assert stats.ratios.kl_sum == 0.0
    assert stats.ratios.ratio_sum == len(text_N)

    wrong_loss, wrong = grpo_loss(calibrated_N, text_N, row, cfg, **given)
    assert wrong.ratios is not None
    assert wrong.ratios.kl_sum > 1.0
    assert wrong_loss != loss
