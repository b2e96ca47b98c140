"""Rewards of VideoSEG-O3, by hand and by a plain reading of the release."""

from __future__ import annotations

import numpy as np
import pytest

from core.types import Episode, SegPrompt
from systems.videoseg_o3 import VideoSegO3
from tests.systems.o3_script import (
    ANSWER,
    HEIGHT,
    SELECT,
    SELECT_2,
    TINY,
    WIDTH,
    WITHOUT_MASKS,
    T,
    play,
    sample,
    say,
    score,
    square,
)

Parts = tuple[float, ...]


@pytest.mark.parametrize(
    ("texts", "released", "intended"),
    [
        # Parts: format, steps, span, keyframe, tiou. The target is seen in [4, 9).
        ((ANSWER,), (1, 1, 0.5, 1, 0.8), (1, 1, 0.5, 1, 1)),
        # As released the end is exclusive: the first span is one frame, the second is empty.
        ((say("answer", 5, 6, 5),), (1, 1, 0.5, 1, 0.2), (1, 1, -0.5, 1, 0.4)),
        ((say("answer", 6, 6, 6),), (1, 1, -0.5, 1, 0), (1, 1, -0.5, 1, 0.2)),
        ((say("answer", 2, 8, 3),), (1, 1, 0.5 * 4 / 6, -1, 4 / 7), (1, 1, 0.5 * 5 / 7, -1, 5 / 7)),
        ((say("answer", 0, 11, 99),), (1, 1, -0.5, -1, 5 / 11), (1, 1, -0.5, -1, 5 / 12)),
        ((SELECT, ANSWER), (1, 1, 0.5, 1, 0.8), (1, 1, 0.5, 1, 1)),
        # No answer at the end.
        ((SELECT, SELECT, say("select", 4, 8, 7)), (1, 1, 0.5, 1, 0.8), (-1, 1, 0.5, 1, 1)),
        ((SELECT, "sorry"), (-1, 0.5, -0.5, -1, 0), (-1, 0.5, -0.5, -1, 0)),
        ((ANSWER.replace("Step 1", "First"),), (1, 0.75, 0.5, 1, 0.8), (1, 0.75, 0.5, 1, 1)),
        ((ANSWER.replace('"', "'"),), (-1, 1, 0.5, 1, 0.8), (-1, 1, -0.5, -1, 0)),
        ((ANSWER + "...",), (-1, 0, -0.5, -1, 0), (-1, 0, -0.5, -1, 0)),
        (("",), (-1, 0, -0.5, -1, 0), (-1, 0, -0.5, -1, 0)),
    ],
)
def test_parts_by_hand(texts: tuple[str, ...], released: Parts, intended: Parts) -> None:
    check_text_parts(texts, "as_released", released)
    check_text_parts(texts, "as_intended", intended)


def check_text_parts(texts: tuple[str, ...], mode: str, expected: Parts) -> None:
    """Check the parts that need no mask, and their sum under two sets of weights."""
    form, steps, span, keyframe, tiou = expected
    reward = score(*texts, rewards=mode)
    assert reward.parts == pytest.approx(
        {"format": form, "steps": steps, "span": span, "keyframe": keyframe, "tiou": tiou}
    )
    # The tIoU has weight 0 by default.
    total = form + steps + span + keyframe
    assert reward.total == pytest.approx(total)

    weights = WITHOUT_MASKS | {"format": 10, "tiou": 100}
    weighted = score(*texts, rewards=mode, weights=weights)
    assert weighted.total == pytest.approx(total + 9 * form + 100 * tiou)


# --- rewards of masks


def draw_square(seg: SegPrompt) -> np.ndarray:
    """The target's true mask, drawn on every frame."""
    return square(20)


def draw_empty(seg: SegPrompt) -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), bool)


def draw_nothing(seg: SegPrompt) -> None:
    return None


def draw_better_in_turn_2(seg: SegPrompt) -> np.ndarray | None:
    """On the keyframe IoU .5 in turn 1 and 1 in turn 2; empty masks on frames 0 and 11."""
    if seg.role == "final":
        return None
    if seg.role == "video":
        return draw_empty(seg)
    return square(10 if seg.turn == 0 else 20)


@pytest.mark.parametrize(("mode", "progress"), [("as_released", 0.5), ("as_intended", 2)])
def test_masks_that_get_better(mode: str, progress: float) -> None:
    parts = score(SELECT, ANSWER, draw=draw_better_in_turn_2, rewards=mode).parts
    assert parts["mask"] == pytest.approx(1.5)
    assert parts["keyframe_gain"] == pytest.approx(0)
    assert parts["progress"] == pytest.approx(progress)


@pytest.mark.parametrize(("mode", "gain"), [("as_intended", 2), ("as_released", 0.5)])
def test_masks_on_frames_without_the_target(mode: str, gain: float) -> None:
    parts = score(SELECT, ANSWER, draw=draw_square, rewards=mode).parts
    assert parts["mask"] == pytest.approx(-1)
    assert parts["keyframe_gain"] == pytest.approx(gain)
    assert parts["progress"] == pytest.approx(0)


def test_masks_that_could_not_be_drawn() -> None:
    parts = score(SELECT, ANSWER, draw=draw_nothing).parts
    assert parts["mask"] == -1
    assert parts["keyframe_gain"] == 0
    assert parts["progress"] == 0


def test_a_last_turn_without_seg_has_no_masks() -> None:
    parts = score(SELECT, "no", draw=draw_square).parts
    assert parts["mask"] == -1
    assert parts["keyframe_gain"] == 0
    assert parts["progress"] == -1


@pytest.mark.parametrize("mode", ["as_released", "as_intended"])
def test_an_empty_mask_gains_nothing_while_the_target_is_on_other_frames(mode: str) -> None:
    texts = (say("select", 0, 3, 1), ANSWER)
    parts = score(*texts, draw=draw_empty, rewards=mode).parts
    assert parts["mask"] == 1.5
    assert parts["keyframe_gain"] == -1


@pytest.mark.parametrize(("mode", "gain"), [("as_released", -1), ("as_intended", 0)])
def test_an_empty_mask_is_right_as_intended_where_no_frame_shows_the_target(
    mode: str, gain: float
) -> None:
    texts = (say("select", 0, 3, 1), ANSWER)
    parts = score(*texts, of=sample(seen=()), draw=draw_empty, rewards=mode).parts
    assert parts["mask"] == 1.5
    assert parts["keyframe_gain"] == gain


def test_of_several_segs_the_mean_counts_on_the_video_and_the_last_on_the_keyframe() -> None:
    def draw_last_seg_only(seg: SegPrompt) -> np.ndarray:
        return square(20) if seg.position == 3 else square(0)

    texts = (SELECT, ANSWER.replace("[SEG]", "[SEG] [SEG]"))
    parts = score(*texts, of=sample(seen=range(T)), draw=draw_last_seg_only).parts
    assert parts["mask"] == pytest.approx(0.3)
    assert parts["progress"] == 0.5


def test_masks_of_another_size_than_the_video() -> None:
    def draw_at_half_size(seg: SegPrompt) -> np.ndarray:
        return square()[::2, ::2]

    parts = score(ANSWER, of=sample(seen=range(T)), draw=draw_at_half_size).parts
    assert parts["mask"] == pytest.approx(1.5)


def test_rewarded_masks_must_be_given() -> None:
    episode, _, system = play(ANSWER, weights={"progress": 0})
    assert system.masks_by == "policy"
    message = "mask, keyframe_gain need masks, and this policy draws none: .*weights 0"
    with pytest.raises(ValueError, match=message):
        system.score(sample(), [episode])


def test_no_mask_is_needed_if_none_is_rewarded() -> None:
    assert VideoSegO3.make({"weights": WITHOUT_MASKS}).masks_by == ""


# --- groups


@pytest.mark.parametrize("mode", ["as_released", "as_intended"])
def test_a_group_is_scored_as_its_episodes_are(mode: str) -> None:
    dialogues = [
        (SELECT, SELECT_2, ANSWER),
        (ANSWER,),
        (SELECT, "no"),
        (SELECT, ANSWER.replace("[SEG]", "[SEG] [SEG]")),
    ]
    rng = np.random.default_rng(0)
    system = VideoSegO3.make(TINY | {"rewards": mode})
    seen = sample(seen=range(2, T))
    episodes = []
    masks = []
    for texts in dialogues:
        episode, _, _ = play(*texts, of=seen, rewards=mode)
        episodes.append(episode)
        masks.append(random_masks(episode, rng))

    together = system.score(seen, episodes, masks)
    one_by_one = []
    for episode, masks_of_episode in zip(episodes, masks, strict=True):
        one_by_one += system.score(seen, [episode], [masks_of_episode])
    assert together == one_by_one
    totals = {reward.total for reward in together}
    assert len(totals) == 4


def random_masks(episode: Episode, rng: np.random.Generator) -> list[np.ndarray]:
    """One square for each [SEG] token, of a random size."""
    masks = []
    for _ in episode.answer.segs:
        masks.append(square(int(rng.integers(0, 41))))
    return masks
