"""Rewards of VideoSEG-O3, by hand and by a plain reading of the release."""

import ast
import re

import numpy as np
import pytest

from core.types import SegPrompt
from systems.videoseg_o3 import VideoSegO3
from tests.systems.o3_script import (
    ANSWER,
    HEIGHT,
    SEEN,
    SELECT,
    SELECT_2,
    WIDTH,
    WITHOUT_MASKS,
    T,
    play,
    sample,
    say,
    score,
    square,
)


@pytest.mark.parametrize(
    ("texts", "released", "intended"),
    [  # format, steps, span, keyframe, tiou; the target is seen in [4, 9)
        ((ANSWER,), (1, 1, 0.5, 1, 0.8), (1, 1, 0.5, 1, 1)),
        (
            (say("answer", 5, 6, 5),),
            (1, 1, 0.5, 1, 0.2),
            (1, 1, -0.5, 1, 0.4),
        ),  # one frame is precise
        ((say("answer", 6, 6, 6),), (1, 1, -0.5, 1, 0), (1, 1, -0.5, 1, 0.2)),
        ((say("answer", 2, 8, 3),), (1, 1, 0.5 * 4 / 6, -1, 4 / 7), (1, 1, 0.5 * 5 / 7, -1, 5 / 7)),
        ((say("answer", 0, 11, 99),), (1, 1, -0.5, -1, 5 / 11), (1, 1, -0.5, -1, 5 / 12)),
        ((SELECT, ANSWER), (1, 1, 0.5, 1, 0.8), (1, 1, 0.5, 1, 1)),
        (
            (SELECT, SELECT, say("select", 4, 8, 7)),
            (1, 1, 0.5, 1, 0.8),
            (-1, 1, 0.5, 1, 1),
        ),  # no answer at the end
        ((SELECT, "sorry"), (-1, 0.5, -0.5, -1, 0), (-1, 0.5, -0.5, -1, 0)),
        ((ANSWER.replace("Step 1", "First"),), (1, 0.75, 0.5, 1, 0.8), (1, 0.75, 0.5, 1, 1)),
        ((ANSWER.replace('"', "'"),), (-1, 1, 0.5, 1, 0.8), (-1, 1, -0.5, -1, 0)),
        ((ANSWER + "...",), (-1, 0, -0.5, -1, 0), (-1, 0, -0.5, -1, 0)),
        (("",), (-1, 0, -0.5, -1, 0), (-1, 0, -0.5, -1, 0)),
    ],
)
def test_parts_by_hand(texts, released, intended):
    for mode, parts in (("as_released", released), ("as_intended", intended)):
        reward = score(*texts, rewards=mode)
        names = ["format", "steps", "span", "keyframe", "tiou"]
        assert [reward.parts[name] for name in names] == pytest.approx(parts)
        assert len(reward.parts) == 5
        assert reward.total == pytest.approx(sum(parts[:4]))  # the tIoU is told, not paid
        dearer = score(*texts, rewards=mode, weights=WITHOUT_MASKS | {"format": 10, "tiou": 100})
        assert dearer.total == pytest.approx(sum(parts[:4]) + 9 * parts[0] + 100 * parts[4])


def test_rewards_of_masks_by_hand():
    """IoU .5 on turn 1's keyframe, 1 on turn 2's; empty masks on 0 and 11, without the target."""

    def draw(seg: SegPrompt):
        if seg.role == "final":
            return None
        return (
            square(10 if seg.turn == 0 else 20)
            if seg.role == "keyframe"
            else np.zeros((HEIGHT, WIDTH), bool)
        )

    for mode, gain, progress in (("as_released", 0, 0.5), ("as_intended", 0, 2)):
        parts = score(SELECT, ANSWER, draw=draw, rewards=mode).parts
        assert (parts["mask"], parts["keyframe_gain"], parts["progress"]) == pytest.approx(
            (1.5, gain, progress)
        )
    wrong = score(SELECT, ANSWER, draw=lambda seg: square(20), rewards="as_intended").parts
    assert (wrong["mask"], wrong["keyframe_gain"], wrong["progress"]) == pytest.approx((-1, 2, 0))
    wrong = score(SELECT, ANSWER, draw=lambda seg: square(20), rewards="as_released").parts
    assert (wrong["mask"], wrong["keyframe_gain"], wrong["progress"]) == pytest.approx((-1, 0.5, 0))
    absent = score(SELECT, ANSWER, draw=lambda seg: None).parts
    assert (absent["mask"], absent["keyframe_gain"], absent["progress"]) == (-1, 0, 0)
    unsaid = score(SELECT, "no", draw=lambda seg: square(20)).parts  # without [SEG]
    assert (unsaid["mask"], unsaid["keyframe_gain"], unsaid["progress"]) == (-1, 0, -1)


@pytest.mark.parametrize(("mode", "gain"), [("as_released", -1), ("as_intended", 0)])
def test_empty_masks_on_a_keyframe_without_the_target(mode, gain):
    """No gain while the target is elsewhere; as intended, they are right where it is nowhere."""
    empty = np.zeros((HEIGHT, WIDTH), bool)
    texts = (say("select", 0, 3, 1), ANSWER)
    elsewhere = score(*texts, draw=lambda seg: empty, rewards=mode).parts
    assert (elsewhere["mask"], elsewhere["keyframe_gain"]) == (1.5, -1)
    nowhere = score(*texts, of=sample(seen=()), draw=lambda seg: empty, rewards=mode).parts
    assert (nowhere["mask"], nowhere["keyframe_gain"]) == (1.5, gain)


def test_the_mean_of_several_segs_counts_on_the_video_and_the_last_on_the_keyframe():
    texts = (SELECT, ANSWER.replace("[SEG]", "[SEG] [SEG]"))
    seen = sample(seen=range(T))
    halves = score(
        *texts, of=seen, draw=lambda seg: square(20) if seg.position == 3 else square(0)
    ).parts
    assert halves["mask"] == pytest.approx(0.3)
    assert halves["progress"] == 0.5


def test_masks_of_another_size_than_the_video():
    small = square()[::2, ::2]
    seen = sample(seen=range(T))
    assert score(ANSWER, of=seen, draw=lambda seg: small).parts["mask"] == pytest.approx(1.5)


def test_a_group_is_scored_as_its_episodes_are():
    dialogues = [
        (SELECT, SELECT_2, ANSWER),
        (ANSWER,),
        (SELECT, "no"),
        (SELECT, ANSWER.replace("[SEG]", "[SEG] [SEG]")),
    ]
    rng = np.random.default_rng(0)
    seen = sample(seen=range(2, T))
    for mode in ("as_released", "as_intended"):
        played = [play(*texts, of=seen, rewards=mode) for texts in dialogues]
        episodes = [episode for episode, *_ in played]
        system = played[0][2]
        masks = [[square(int(rng.integers(0, 41))) for _ in e.answer.segs] for e in episodes]
        together = system.score(seen, episodes, masks)
        assert together == [
            system.score(seen, [e], [m])[0] for e, m in zip(episodes, masks, strict=True)
        ]
        assert len({reward.total for reward in together}) == 4


def plain_span_reward(text: str) -> float:
    """The released `lr_vtg_iou_dense`, for text alone."""
    found = re.findall(r"<VTG>(.*?)</VTG>", text, re.DOTALL)
    try:
        said = ast.literal_eval(found[-1])
        start, end = (max(0, min(T, int(said[key]))) for key in ("start", "end"))
        said["keyframe"]
    except (IndexError, ValueError, SyntaxError, KeyError, TypeError):
        return -0.5
    if start >= end:
        return -0.5
    share = sum(f in SEEN for f in range(start, end)) / (end - start)
    return 0.5 * share if share >= 0.5 else -0.5


def test_the_span_reward_is_that_of_the_release():
    rng = np.random.default_rng(0)
    earned = set()
    for _ in range(300):
        start, end, keyframe = (int(x) for x in rng.integers(-2, T + 3, 3))
        text = say("answer", start, end, keyframe).replace(
            '"', rng.choice(['"', "'", ""], p=[0.8, 0.1, 0.1])
        )
        earned.add(got := score(text).parts["span"])
        assert got == pytest.approx(plain_span_reward(text)), text
    assert len(earned) > 8


def test_masks_that_are_paid_for_must_be_there():
    episode, _, system = play(ANSWER, weights={"progress": 0})
    with pytest.raises(
        ValueError, match="mask, keyframe_gain need masks, and this policy draws none: .*weights 0"
    ):
        system.score(sample(), [episode])
    assert system.masks_by == "policy"
    assert VideoSegO3.make({"weights": WITHOUT_MASKS}).masks_by == ""
