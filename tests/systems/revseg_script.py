"""ReVSeg played by a scripted policy about a hand-made square; for the tests of its parts."""

import asyncio
from dataclasses import replace

import numpy as np

from core.masks import encode
from core.types import Sample, Target, Turn, Video
from systems.revseg import ReVSeg

TINY = {
    "num_frames": 4,
    "frame_height": 56,
    "frame_width": 84,
    "keyframe_height": 112,
    "keyframe_width": 168,
    "prompt": "short",
}
SIDES = {
    1: 10,
    3: 20,
    5: 40,
}  # side of the square target in the frames that show it; the sampled ones are 1 3 5 7
GOOD_1 = (
    '<think>it grows</think><answer>[{"frame_idx": 2, "object description": "red square"}]</answer>'
)
GOOD_2 = '<answer>[{"bbox_2d":[0,0,112,112],"label":"red square"}]</answer>'


def square(side: int, height: int, width: int):
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[:side, :side] = True
    return encode(mask_HW)


def sample(sides=None, height=40, width=60, **changes) -> Sample:
    """8 frames with a square in the upper left corner. Keyframe views scale height by 2.8 and width by 2.8."""
    masks_F = tuple(
        square(s, height, width) if s else None for s in map((sides or SIDES).get, range(8))
    )
    video = Video("v", "videos/v", tuple(f"{i:05d}" for i in range(8)), height, width)
    return replace(
        Sample("v/0", video, "the square that grows", (Target("a", masks_F),)), **changes
    )


class Script:
    """Says the given texts in turn and remembers what it was asked. A text that ends in "..." was cut off."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked = []
        self.budgets = []

    async def __call__(self, content, *, max_tokens, trainable=True) -> Turn:
        self.asked.append(list(content))
        self.budgets.append(max_tokens)
        text = self.texts[len(self.asked) - 1]
        return Turn((1,), (2,), (-0.5,), text, (), not text.endswith("..."), version=0)


def play(*texts: str, of: Sample | None = None, **options):
    script = Script(*texts)
    system = ReVSeg.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), script))
    assert len(script.asked) == len(episode.turns)
    return episode, script, system
