"""The example system: played by a scripted policy, rewarded, demonstrated."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from core.types import End, View
from examples.my_system import FirstFrame, square_sample
from tests.systems.scripted import ScriptedAsk

SAMPLE = square_sample()
OPTIONS = {"frame_height": 56, "frame_width": 85}


@pytest.mark.parametrize(
    ("text", "end", "total"),
    [
        ("<answer>[0, 0, 28, 28]</answer>", End.DONE, 1.5),
        ("<answer>[0, 0, 9, 9]</answer>", End.DONE, 0.5),
        ("<answer>[0, 0]</answer>", End.UNREADABLE, 0.0),
        ("<answer>[9, 0, 0, 9]</answer>", End.UNREADABLE, 0.0),
        ("<answer>[0, 0, 28, 28]</answer>...", End.TRUNCATED, 0.0),
    ],
)
def test_an_episode(text: str, end: End, total: float) -> None:
    system = FirstFrame.make(OPTIONS)
    ask = ScriptedAsk(text)
    episode = asyncio.run(system.play(SAMPLE.bare, ask))
    assert ask.contents[0][0] == View(0, 56, 84)
    assert episode.end is end
    [reward] = system.score(SAMPLE, [episode])
    assert reward.total == total
    assert reward.total == sum(system.weights[name] * part for name, part in reward.parts.items())


def test_the_demonstration_is_tracked_from_the_true_box() -> None:
    system = FirstFrame.make(OPTIONS)
    [(_, text)] = system.demonstrate(SAMPLE, np.random.default_rng(0))
    episode = asyncio.run(system.play(SAMPLE.bare, ScriptedAsk(text)))
    assert episode.answer.prompts[0].box == pytest.approx((0, 0, 20, 20))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"system\.options\.iou_threshold=1: must be"):
        FirstFrame.make({"iou_threshold": 1})
