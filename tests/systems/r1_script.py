"""VideoSeg-R1 played by a scripted policy about hand-made rectangles; for the tests of its parts."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np

from core.masks import decode, encode
from core.types import Reward, Sample, Target, Turn, Video
from systems.videoseg_r1 import VideoSegR1

TINY = {
    "key_frames": 3,
    "reference_frames": 2,
    "frame_height": 56,
    "frame_width": 84,
    "target_height": 112,
    "target_width": 168,
    "negative_limit": 20.0,
    "prompt": "short",
    "sampler": "first",
}
# x0, y0, x1, y1 (outside) in a video of 40 x 60; views scale by 2.8
LEFT = (10, 10, 20, 20)
RIGHT = (40, 10, 50, 30)
# Their true boxes in the view: pixels 10..19 become 28..53, 40..49 become 112..137, 10..29 become 28..81.
PERFECT = [
    {"bbox_2d": [28, 28, 53, 53], "point_2d": [40, 40], "neg_point_2d": [60, 40]},
    {"bbox_2d": [112, 28, 137, 81], "point_2d": [125, 54], "neg_point_2d": [125, 95]},
]


def rectangle(x0: int, y0: int, x1: int, y1: int, height: int = 40, width: int = 60):
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[y0:y1, x0:x1] = True
    return encode(mask_HW)


def sample(num_frames: int = 8, boxes=(LEFT, RIGHT), seen=None, **changes) -> Sample:
    """Rectangles that stand still, visible in the frames `seen` (all)."""
    seen = range(num_frames) if seen is None else seen
    targets = tuple(
        Target(str(i), tuple(rectangle(*b) if f in seen else None for f in range(num_frames)))
        for i, b in enumerate(boxes)
    )
    video = Video("v", "videos/v", tuple(f"{i:05d}" for i in range(num_frames)), 40, 60)
    return replace(Sample("v/0", video, "the dogs", targets), **changes)


class Script:
    """Says the given text and remembers what it was asked. A text that ends in "..." was cut off. Counts words."""

    version = 0

    def __init__(self, text: str, auxiliary: str = "") -> None:
        self.text = text
        self.answer = auxiliary
        self.auxiliaries = 0
        self.asked: list[Any] = []
        self.budgets: list[int] = []

    async def __call__(self, content, *, max_tokens, trainable=True) -> Turn:
        self.asked.append(list(content))
        self.budgets.append(max_tokens)
        return Turn((1,), (2,), (-0.5,), self.text, (), not self.text.endswith("..."), version=0)

    async def auxiliary(self, content, *, max_tokens, temperature, top_p) -> Turn:
        self.auxiliaries += 1
        return Turn((9,), (9,), (-0.5,), self.answer, (), True, version=0, trainable=False)

    def count(self, text: str) -> int:
        return len(text.split())


def say(rows, thought: str = "because") -> str:
    return f"<think>{thought}</think><answer>{json.dumps(rows)}</answer>"


def play(text: str, of: Sample | None = None, script: Script | None = None, **options):
    script = script or Script(text)
    system = VideoSegR1.make(TINY | options)
    return asyncio.run(system.play(of or sample(), script)), script, system


def score(text: str, of: Sample | None = None, **options) -> Reward:
    episode, _, system = play(text, of, **options)
    (reward,) = system.score(of or sample(), [episode])
    return reward


def parts(text: str, of: Sample | None = None, **options) -> tuple[float, ...]:
    return tuple(score(text, of, **options).parts.values())


def drawn(of: Sample, *groups_of_boxes) -> list[list[np.ndarray | None]]:
    """For each episode masks that are these boxes."""
    hw = of.video.height, of.video.width
    return [
        [None if b is None else decode(rectangle(*b, *hw)) for b in boxes]
        for boxes in groups_of_boxes
    ]
