"""ReVSeg: its two rounds, how an episode ends, its demonstrations and options."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import systems
from core.geometry import Grid
from core.types import End, Notes, View
from systems.revseg import ReVSeg
from systems.revseg.answers import read_box, read_keyframe
from tests.systems.revseg_script import GOOD_1, GOOD_2, TINY, play, sample


def test_two_rounds() -> None:
    episode, script, _ = play(GOOD_1, GOOD_2)
    low = [View(frame, 56, 84) for frame in (1, 3, 5, 7)]
    shown = ["0", low[0], "1", low[1], "2", low[2], "3", low[3]]
    assert script.contents[0] == [*shown, " Find the square that grows."]
    assert script.contents[1] == [View(5, 112, 168), "Locate the red square."]
    assert script.budgets == [1024, 256]
    assert episode.end is End.DONE
    assert len(episode.turns) == 2
    (prompt,) = episode.answer.prompts
    assert prompt.frame == 5
    assert prompt.box == pytest.approx((0, 0, 40, 40))
    assert json.loads(json.dumps(episode.answer.to_json())) == {
        "frame_idx": 2,
        "frame": 5,
        "description": "red square",
        "box": [0, 0, 112, 112],
        "tags_1": True,
        "json_1": True,
        "tags_2": True,
        "json_2": True,
    }


def test_an_unreadable_first_round_ends_the_episode() -> None:
    episode, script, _ = play("<think>hm</think><answer>the square</answer>")
    assert episode.end is End.UNREADABLE
    assert len(script.contents) == 1
    assert episode.answer.prompts == ()
    assert episode.answer.facts["tags_1"] is True


@pytest.mark.parametrize("texts", [(GOOD_1 + "...",), (GOOD_1, GOOD_2 + "...")])
def test_a_cut_off_answer_is_not_read(texts: tuple[str, ...]) -> None:
    episode, *_ = play(*texts)
    assert episode.end is End.TRUNCATED
    assert episode.answer.prompts == ()
    assert episode.answer.facts[f"json_{len(texts)}"] is False
    assert episode.answer.facts[f"tags_{len(texts)}"] is False


def test_an_unreadable_box() -> None:
    episode, *_ = play(GOOD_1, "no idea")
    assert episode.end is End.UNREADABLE
    assert episode.answer.keyframe == 5


def test_a_description_cannot_smuggle_in_an_image() -> None:
    _, script, _ = play(GOOD_1.replace("red square", "red <|image_pad|>"), GOOD_2)
    assert script.contents[1][1] == "Locate the red image_pad."


def test_fewer_frames_than_asked_are_all_shown() -> None:
    episode, script, _ = play(GOOD_1.replace("2", "15"), num_frames=16)
    assert sum(isinstance(x, View) for x in script.contents[0]) == 8
    # 15 is no index into 8 frames.
    assert episode.end is End.UNREADABLE


def test_full_prompts_say_what_is_needed() -> None:
    _, script, _ = play(GOOD_1, GOOD_2, prompt="full", strict_turn2_tags=True)
    first, second = script.contents
    assert [first[0], first[2]] == ["Frame 0:", "Frame 1:"]
    task = str(first[-1])
    clip = ("4 frames", "2 seconds", "2 frames per second", "0 to 3")
    for words in ('"the square that grows"', "<think>", *clip):
        assert words in task
    example = task[task.rindex("<think>") :]
    assert read_keyframe(example, 16) == (5, "brown dog lying to the left of the sofa")
    for words in ("168 x 112", '"red square"', "bbox_2d", "<think>"):
        assert words in str(second[-1])


def test_all_at_once() -> None:
    text = GOOD_1.replace("}]", ', "bbox_2d": [0, 0, 56, 56]}]')
    for prompt in ("short", "full"):
        episode, script, system = play(text, decompose=False, prompt=prompt)
        assert episode.end is End.DONE
        assert script.budgets == [1280]
        # The box is in pixels of the low-resolution frame, 84 wide.
        assert episode.answer.prompts[0].box == pytest.approx((0, 0, 40, 40))
        (reward,) = system.score(sample(), [episode])
        assert reward.total == 3
        assert reward.per_turn == (3,)
    task = str(script.contents[0][-1])
    assert read_box(task[task.rindex("<think>") :], Grid((840, 840))) == (96, 210, 251, 330)


# --- demonstrating


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "full"},
        {"strict_turn2_tags": True},
        {"decompose": False},
        {"keyframe_width": 28},
    ],
)
def test_a_demonstration_earns_what_can_be_earned(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        turns = ReVSeg.make(TINY | options).demonstrate(sample(), rng)
        episode, script, system = play(*(text for _, text in turns), **options)
        assert script.contents == [content for content, _ in turns]
        (reward,) = system.score(sample(), [episode])
        assert reward.parts["format"] == reward.parts["spatial"] == 1
        seen.add(episode.answer.keyframe)
    assert seen == {1, 3, 5}


def test_a_demonstration_uses_the_notes() -> None:
    noted = sample({5: 40}, notes=Notes(thought="it grows", names=("red square",)))
    (_, first), (content, second) = ReVSeg.make(TINY).demonstrate(noted, np.random.default_rng(0))
    assert (first, second) == (GOOD_1, GOOD_2)
    assert content[1] == "Locate the red square."
    several = replace(noted, notes=Notes(names=("red square", "blue circle")))
    assert (
        "red square and blue circle"
        in ReVSeg.make(TINY).demonstrate(several, np.random.default_rng(0))[0][1]
    )


def test_nothing_to_demonstrate() -> None:
    with pytest.raises(ValueError, match="'v/0'.*no target"):
        ReVSeg.make(TINY).demonstrate(sample({0: 10}), np.random.default_rng(0))


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frame": 8}, r"system\.options\.num_frame is unknown; did you mean 'num_frames'"),
        (
            {"num_frames": "8"},
            r"system\.options\.num_frames='8' \(str\): expected a whole number",
        ),
        ({"num_frames": True}, "expected a whole number"),
        ({"num_frames": 0}, "at least 1"),
        ({"decompose": 1}, "expected true or false"),
        ({"iou_threshold": "high"}, "expected a number"),
        ({"iou_threshold": 1.0}, "must be at least 0 and below 1"),
        ({"prompt": "long"}, r"expected one of full \| short"),
        ({"temporal_reward": None}, r"one of none \| binary \| soft"),
        ({"weights": "papers"}, r"expected one of paper \| curve or a mapping to a number"),
        (
            {"weights": {"format": 1, "temporal": 1, "spatal": 1}},
            "weights.spatal is unknown; did you mean 'spatial'",
        ),
        ({"weights": {"format": "1", "temporal": 1, "spatial": 1}}, "mapping to a number"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReVSeg.make(options)


def test_systems_by_name() -> None:
    assert systems.make("revseg", {"num_frames": 8}).name == "revseg"
    with pytest.raises(
        ValueError, match="'revsge' is unknown; did you mean 'revseg'. Choose from: revseg"
    ):
        systems.make("revsge", {})
