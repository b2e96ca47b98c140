"""VideoSEG-O3 played by a scripted policy about a hand-made video; for the tests of its parts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

import numpy as np

from core.masks import encode
from core.types import Episode, Reward, Sample, SegPrompt, Target
from systems.videoseg_o3 import VideoSegO3
from tests.systems.scripted import ScriptedAsk, video

TINY = {
    "temporal_frames": 4,
    "spatial_frames": 2,
    "round_frames": 3,
    "temporal_pixels": 28 * 28 * 2,
    "spatial_pixels": 28 * 28 * 6,
    "prompt": "short",
}
T = 12
HEIGHT = 40
WIDTH = 60
# Frames that show the target.
SEEN = range(4, 9)
SEG_ID = 7
END_ID = 9
# Weights under which no mask is needed.
WITHOUT_MASKS = {"mask": 0, "keyframe_gain": 0, "progress": 0}
STEPS = "Step 1: a. Step 2: b. Step 3: c. Action: d."


def say(action: str, start: int, end: int, keyframe: int, seg: str = "[SEG]") -> str:
    vtg = f'<VTG>{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}</VTG>'
    return f"<think>{STEPS}</think><{action}>{vtg}<RefSeg>{seg}</RefSeg></{action}>"


SELECT = say("select", 2, 9, 5)
SELECT_2 = say("select", 3, 8, 6)
ANSWER = say("answer", 4, 8, 7)


def square(side: int = 20) -> np.ndarray:
    """A mask `side` pixels high and at most 20 wide, in the upper left corner."""
    mask_HW = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask_HW[:side, :20] = True
    return mask_HW


def sample(seen: Container[int] = SEEN, **changes: Any) -> Sample:
    """12 frames of 40 x 60; the frames `seen` show a square of 20 x 20 in the upper left corner."""
    masks_F = []
    for frame in range(T):
        masks_F.append(encode(square()) if frame in seen else None)
    whole = Sample("v/0", video(T, HEIGHT, WIDTH), "the dog", (Target("a", tuple(masks_F)),))
    return replace(whole, **changes)


class Mute(ScriptedAsk):
    """A policy without `id_of`: the system cannot find its [SEG] tokens."""

    def ids_of(self, text: str) -> tuple[int, ...]:
        """Token ids: 1 for each piece of text, `SEG_ID` for [SEG], `END_ID` at the end."""
        ids = []
        for piece in re.split(r"(\[SEG\])", text):
            ids.append(SEG_ID if piece == "[SEG]" else 1)
        return (*ids, END_ID)


class Drawing(Mute):
    """A policy that draws: it gives the id of [SEG]."""

    def id_of(self, token: str) -> int | None:
        if token == "[SEG]":
            return SEG_ID
        return None


def play(
    *texts: str, of: Sample | None = None, script: type[Mute] = Drawing, **options: Any
) -> tuple[Episode, Mute, VideoSegO3]:
    """Play the texts; every one of them must have been asked for."""
    policy = script(*texts)
    system = VideoSegO3.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), policy))
    assert len(policy.contents) == len(episode.turns)
    return episode, policy, system


def score(
    *texts: str,
    draw: Callable[[SegPrompt], np.ndarray | None] | None = None,
    of: Sample | None = None,
    **options: Any,
) -> Reward:
    """Reward of the texts.

    `draw` makes the mask at a [SEG] token; without it no mask is rewarded.
    """
    if draw is None:
        options = {"weights": WITHOUT_MASKS} | options
    episode, _, system = play(*texts, of=of, **options)
    masks = None
    if draw is not None:
        masks = [[draw(seg) for seg in episode.answer.segs]]
    (reward,) = system.score(of or sample(), [episode], masks)
    return reward
