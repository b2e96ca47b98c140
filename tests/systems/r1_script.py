"""VideoSeg-R1 played by a scripted policy about hand-made rectangles; for tests of its parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from core.masks import decode
from core.types import Episode, Reward, Sample, Target
from systems.videoseg_r1 import VideoSegR1
from tests.systems.scripted import ScriptedAsk, rectangle, video

Corners = tuple[int, int, int, int]

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
# x0, y0, x1, y1 in a video of 40 x 60, x1 and y1 exclusive. The target view is 2.8 times larger.
LEFT = (10, 10, 20, 20)
RIGHT = (40, 10, 50, 30)
# Their true boxes in the target view: pixels 10 to 19 become 28 to 53, 40 to 49 become
# 112 to 137, and 10 to 29 become 28 to 81.
PERFECT = [
    {"bbox_2d": [28, 28, 53, 53], "point_2d": [40, 40], "neg_point_2d": [60, 40]},
    {"bbox_2d": [112, 28, 137, 81], "point_2d": [125, 54], "neg_point_2d": [125, 95]},
]


def sample(
    num_frames: int = 8,
    boxes: Sequence[Corners] = (LEFT, RIGHT),
    seen: Container[int] | None = None,
    **changes: Any,
) -> Sample:
    """Rectangles that stand still, visible in the frames `seen`; in all frames by default."""
    targets = []
    for number, box in enumerate(boxes):
        masks_F = []
        for frame in range(num_frames):
            shown = seen is None or frame in seen
            masks_F.append(rectangle(*box) if shown else None)
        targets.append(Target(str(number), tuple(masks_F)))
    whole = Sample("v/0", video(num_frames), "the dogs", tuple(targets))
    return replace(whole, **changes)


def say(rows: Any, thought: str = "because") -> str:
    return f"<think>{thought}</think><answer>{json.dumps(rows)}</answer>"


def play(
    text: str, of: Sample | None = None, **options: Any
) -> tuple[Episode, ScriptedAsk, VideoSegR1]:
    """Play the text; auxiliary questions get an empty answer."""
    script = ScriptedAsk(text, auxiliary=[""])
    system = VideoSegR1.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), script))
    return episode, script, system


def score(text: str, of: Sample | None = None, **options: Any) -> Reward:
    episode, _, system = play(text, of, **options)
    (reward,) = system.score(of or sample(), [episode])
    return reward


def parts(text: str, of: Sample | None = None, **options: Any) -> tuple[float, ...]:
    """Parts of the reward, in the order of the table of terms."""
    reward = score(text, of, **options)
    return tuple(reward.parts.values())


def drawn(of: Sample, *groups_of_boxes: Sequence[Corners | None]) -> list[list[np.ndarray | None]]:
    """Masks of a group's episodes: one full rectangle for each box, None for None."""
    height, width = of.video.height, of.video.width
    masks: list[list[np.ndarray | None]] = []
    for boxes in groups_of_boxes:
        masks_of_episode: list[np.ndarray | None] = []
        for box in boxes:
            mask_HW = None
            if box is not None:
                mask_HW = decode(rectangle(*box, height, width))
            masks_of_episode.append(mask_HW)
        masks.append(masks_of_episode)
    return masks
