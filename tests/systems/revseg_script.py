"""ReVSeg played by a scripted policy about a hand-made square; for the tests of its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.types import Episode, Sample, Target
from systems.revseg import ReVSeg
from tests.systems.scripted import ScriptedAsk, rectangle, video

TINY = {
    "num_frames": 4,
    "frame_height": 56,
    "frame_width": 84,
    "keyframe_height": 112,
    "keyframe_width": 168,
    "prompt": "short",
}
# Side of the square target in the frames that show it. The sampled frames are 1, 3, 5 and 7.
SIDES = {1: 10, 3: 20, 5: 40}
GOOD_1 = (
    '<think>it grows</think><answer>[{"frame_idx": 2, "object description": "red square"}]</answer>'
)
GOOD_2 = '<answer>[{"bbox_2d":[0,0,112,112],"label":"red square"}]</answer>'


def sample(
    sides: Mapping[int, int] = SIDES, height: int = 40, width: int = 60, **changes: Any
) -> Sample:
    """8 frames with a square in the upper left corner; a keyframe is shown 2.8 times enlarged."""
    masks_F = []
    for frame in range(8):
        side = sides.get(frame, 0)
        masks_F.append(rectangle(0, 0, side, side, height, width) if side else None)
    target = Target("a", tuple(masks_F))
    whole = Sample("v/0", video(8, height, width), "the square that grows", (target,))
    return replace(whole, **changes)


def play(
    *texts: str, of: Sample | None = None, **options: Any
) -> tuple[Episode, ScriptedAsk, ReVSeg]:
    """Play the texts; every one of them must have been asked for."""
    ask = ScriptedAsk(*texts)
    system = ReVSeg.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), ask))
    assert len(ask.contents) == len(episode.turns)
    return episode, ask, system
