"""The short form of VideoSeg-R1's question, for tiny policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.geometry import Grid
from core.types import Hints, Notes, View
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.prompts import ask_objects
from systems.videoseg_r1.sampler import Choice
from tests.systems.r1_script import sample

OPTIONS = VideoSegR1Options(
    prompt="short",
    key_frames=2,
    reference_frames=4,
    frame_height=84,
    frame_width=84,
    target_height=112,
    target_width=112,
    negative_limit=20.0,
)
GRID = Grid((112, 112))


def test_frames_are_in_order_and_none_is_shown_twice() -> None:
    content = ask_objects("the dogs", 24, Choice(8, 16, 15), OPTIONS, GRID)
    frames = [piece.frame for piece in content if isinstance(piece, View)]
    # 3, 9, 15 and 21 come from the whole video, 10 and 14 from the segment. The target is last.
    assert frames == [3, 9, 10, 14, 21, 15]
    assert content[:2] == ["3", View(3, 84, 84)]
    assert content[-3:] == ["15", View(15, 112, 112), " Find the dogs."]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"answer": "box"}, " Find the dogs: box."),
        ({"answer": "point"}, " Find the dogs: point."),
        ({"answer": "box_point"}, " Find the dogs: box, point."),
        ({"answer": "box_negative"}, " Find the dogs: box, off."),
        ({"think": False}, "Locate the dogs."),
    ],
)
def test_every_form_of_answer_has_its_own_question(changes: dict[str, Any], text: str) -> None:
    options = replace(OPTIONS, **changes)
    content = ask_objects("the dogs", 24, Choice(8, 16, 15), options, GRID)
    assert content[-1] == text


def test_a_demonstration_uses_the_frame_of_the_hints() -> None:
    system = VideoSegR1(OPTIONS)
    rng = np.random.default_rng(0)
    hinted = sample(notes=Notes(thought="both dogs"), hints=Hints(5, (4, 7)))
    ((content, answer),) = system.demonstrate(hinted, rng)
    assert content == ask_objects(
        "the dogs", 8, Choice(4, 7, 5), system.options, system.target_grid
    )
    assert answer.startswith("<think>both dogs</think>")
