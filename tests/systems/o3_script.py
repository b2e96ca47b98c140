"""VideoSEG-O3 played by a scripted policy about a hand-made video; for the tests of its parts."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import numpy as np

from core.masks import encode
from core.types import Reward, Sample, Target, Turn, Video
from systems.videoseg_o3 import VideoSegO3

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
SEEN = range(4, 9)  # frames that show the target
SEG_ID = 7
END_ID = 9
UNPAID = {"mask": 0, "keyframe_gain": 0, "progress": 0}
STEPS = "Step 1: a. Step 2: b. Step 3: c. Action: d."


def say(action: str, start: int, end: int, keyframe: int, seg: str = "[SEG]") -> str:
    vtg = f'<VTG>{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}</VTG>'
    return f"<think>{STEPS}</think><{action}>{vtg}<RefSeg>{seg}</RefSeg></{action}>"


SELECT = say("select", 2, 9, 5)
SELECT_2 = say("select", 3, 8, 6)
ANSWER = say("answer", 4, 8, 7)


def square(side: int = 20) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask_HW[:side, :20] = True
    return mask_HW


def sample(seen=SEEN, **changes) -> Sample:
    """12 frames of 40 x 60, a square of 20 x 20 in the upper left corner of some."""
    masks_F = tuple(encode(square()) if f in seen else None for f in range(T))
    video = Video("v", "videos/v", tuple(f"{i:05d}" for i in range(T)), HEIGHT, WIDTH)
    return replace(Sample("v/0", video, "the dog", (Target("a", masks_F),)), **changes)


class Script:
    """Says the given texts in turn; one that ends in "..." was cut off. Ids: 1 for each word, [SEG] its own."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked: list[Any] = []
        self.budgets: list[int] = []

    def id_of(self, token: str) -> int | None:
        return SEG_ID if token == "[SEG]" else None

    async def __call__(self, content, *, max_tokens, trainable=True) -> Turn:
        self.asked.append(list(content))
        self.budgets.append(max_tokens)
        text = self.texts[len(self.asked) - 1]
        ids = [SEG_ID if piece == "[SEG]" else 1 for piece in re.split(r"(\[SEG\])", text)] + [
            END_ID
        ]
        return Turn(
            (1,), tuple(ids), (-0.5,) * len(ids), text, (), not text.endswith("..."), version=0
        )


class Mute(Script):
    """Does not tell the ids of its tokens."""

    id_of = None  # type: ignore[assignment]


def play(*texts: str, of: Sample | None = None, script=Script, **options):
    policy = script(*texts)
    system = VideoSegO3.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), policy))
    assert len(policy.asked) == len(episode.turns)
    return episode, policy, system


def score(*texts: str, draw=None, of: Sample | None = None, **options) -> Reward:
    """`draw` makes the mask of a prompt; without it the rewards of masks are off."""
    episode, _, system = play(*texts, of=of, **({} if draw else {"weights": UNPAID}) | options)
    masks = [[draw(seg) for seg in episode.answer.segs]] if draw else None
    (reward,) = system.score(of or sample(), [episode], masks)
    return reward
