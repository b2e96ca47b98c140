"""No unreadable answer earns more than a well-formed wrong one, in any of the four systems.

"Unreadable" is an answer of which nothing counts: no keyframe, no box, no object, no span. The
thought is the same on both sides, since its form and its length have rewards of their own.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from core.types import End, Episode, Sample
from systems.revseg.answers import read_box, read_keyframe
from systems.videoseg_o3.answers import read_last
from systems.videoseg_r1 import VideoSegR1
from tests.systems import o3_script, r1_script, revseg_script
from tests.systems.scripted import ScriptedAsk
from tests.systems.veason_r1 import test_veason_r1 as veason_script

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<select>", "</select>", "<VTG>", "</VTG>"),
    *("[SEG]", "[", "]", "{", "}", '"', "'", ",", "null", "-1", "99", "1e999", "true", " ", "x"),
]


@st.composite
def damaged(draw: DrawFn, text: str) -> str:
    """`text` with a few pieces cut out, doubled or put in."""
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(start + 12, len(text))))
        put_in = draw(st.sampled_from([*PIECES, "", text[start:stop] * 2]))
        text = text[:start] + put_in + text[stop:]
    return text


# --- ReVSeg


WRONG_1 = revseg_script.GOOD_1.replace("2", "3")
WRONG_2 = '<answer>[{"bbox_2d":[150,100,160,110],"label":"red square"}]</answer>'


def revseg_total(*texts: str) -> float:
    episode, _, system = revseg_script.play(*texts)
    (reward,) = system.score(revseg_script.sample(), [episode])
    return reward.total


@given(damaged(revseg_script.GOOD_1))
@settings(deadline=None)
def test_revseg_without_a_keyframe(text: str) -> None:
    assume(read_keyframe(text, 4) is None)
    assert revseg_total(text) < revseg_total(WRONG_1, WRONG_2)


@given(damaged(revseg_script.GOOD_2))
@settings(deadline=None)
def test_revseg_without_a_box(text: str) -> None:
    episode, _, system = revseg_script.play(revseg_script.GOOD_1, WRONG_2)
    assume(read_box(text, system.box_grid) is None)
    wrong = revseg_total(revseg_script.GOOD_1, WRONG_2)
    assert episode.answer.prompts
    assert revseg_total(revseg_script.GOOD_1, text) < wrong


# --- VideoSeg-R1


FAR = [{"bbox_2d": [150, 90, 160, 100], "point_2d": [155, 95], "neg_point_2d": [1, 111]}]


def r1_total(text: str, of: Sample) -> float:
    system = VideoSegR1.make(r1_script.TINY)
    episode = asyncio.run(system.play(of, ScriptedAsk(text)))
    (reward,) = system.score(of, [episode])
    return reward.total


@pytest.mark.parametrize("boxes", [(r1_script.LEFT, r1_script.RIGHT), ()])
@given(damaged(r1_script.say(r1_script.PERFECT)))
@settings(deadline=None)
def test_videoseg_r1_without_objects(boxes: Any, text: str) -> None:
    of = r1_script.sample(boxes=boxes)
    episode = asyncio.run(VideoSegR1.make(r1_script.TINY).play(of, ScriptedAsk(text)))
    assume(episode.end is End.UNREADABLE)
    assert r1_total(text, of) <= r1_total(r1_script.say(FAR), of)


# --- Veason-R1


def veason_total(text: str, of: Sample, masks: list[Any]) -> tuple[float, Episode]:
    episode, _, system = veason_script.play(text, of)
    (reward,) = system.score(of, [episode], [masks])
    return reward.total, episode


@pytest.mark.parametrize("seen", [(3, 4, 5), None])
@given(damaged(veason_script.say(1, veason_script.BOXES)))
@settings(deadline=None)
def test_veason_r1_without_an_answer(seen: Any, text: str) -> None:
    of = veason_script.sample(seen) if seen else veason_script.sample(targets=())
    total, episode = veason_total(text, of, [None] * 8)
    assume(episode.end is End.UNREADABLE)
    elsewhere = veason_script.tracked([(50, 30, 60, 40)], tuple(range(8)))
    wrong, _ = veason_total(veason_script.say(0, [[150, 90, 160, 100]]), of, elsewhere)
    assert total < wrong


# --- VideoSEG-O3


WRONG_LOOK = o3_script.say("answer", 0, 2, 1)


@pytest.mark.parametrize("mode", ["as_released", "as_intended"])
@pytest.mark.parametrize("before", [(), (o3_script.SELECT,)])
@given(damaged(o3_script.ANSWER))
@settings(deadline=None)
def test_videoseg_o3_without_a_look(before: tuple[str, ...], mode: str, text: str) -> None:
    options = o3_script.TINY | {"rewards": mode, "weights": o3_script.WITHOUT_MASKS}
    system = o3_script.VideoSegO3.make(options)
    episode = asyncio.run(system.play(o3_script.sample(), o3_script.Drawing(*before, text)))
    assume(len(episode.turns) == len(before) + 1)
    if mode == "as_released":
        assume(read_last(text, o3_script.T) == ((0, 0), -1))
    else:
        assume(episode.answer.facts["rounds"][-1]["action"] is None)
    (reward,) = system.score(o3_script.sample(), [episode])
    wrong = o3_script.score(*before, WRONG_LOOK, rewards=mode)
    # Equal where the form alone is right, such as a span that starts at 1e9999: infinity.
    assert reward.total <= wrong.total


def test_masks_are_drawn_alike_with_and_without_a_look() -> None:
    """So the rewards of masks do not favour a broken answer either."""
    broken = o3_script.ANSWER.replace("<VTG>", "<vtg>")
    square = o3_script.square()
    parts = [o3_script.score(text, draw=lambda seg: square).parts for text in (broken, WRONG_LOOK)]
    for name in ("mask", "keyframe_gain", "progress"):
        assert parts[0][name] == parts[1][name]
    assert np.all(square[:20, :20])
