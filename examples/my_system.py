"""A system of one's own: one turn, one box in the first frame. `python examples/my_system.py`.

To train it, move the class to a folder in `systems/`, add it to `systems.SYSTEMS` and write a
preset with `system.name: first_frame`. See docs/extending.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.geometry import Box, scale_box
from core.masks import boxes_areas, encode
from core.parsing import block, numbers, value
from core.settings import setting
from core.types import (
    Answer,
    Ask,
    Episode,
    EpisodeMasks,
    MaskPrompt,
    Sample,
    Target,
    Turn,
    Video,
    View,
)
from rewards.spatial import box_hit
from systems.base import BaseSystem, Content, Demonstration, end_of, said, video_hw


@dataclass(frozen=True)
class FirstFrameOptions:
    """`system.options`: checked when a configuration is read."""

    frame_height: int = setting(448, help="pixels, rounded to whole image tokens", least=1)
    frame_width: int = setting(448, help="pixels, rounded to whole image tokens", least=1)
    max_tokens: int = setting(256, help="of the answer", least=1)
    iou_threshold: float = setting(0.5, help="a box above this IoU is a hit", least=0, below=1)


class FirstFrame(BaseSystem[FirstFrameOptions]):
    """Where is the object in the first frame? A segmenter tracks it from there."""

    name = "first_frame"
    schema = FirstFrameOptions
    weights: Mapping[str, float] = {"readable": 0.5, "hit": 1.0}

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        turn = await ask(self.question(sample), max_tokens=self.options.max_tokens)
        box = read_box(said(turn))
        prompts: tuple[MaskPrompt, ...] = ()
        if box is not None:
            prompts = (MaskPrompt(0, scale_box(box, self.frame_hw, video_hw(sample))),)
        answer = Answer(prompts, facts={"box": box and list(box)}, keyframe=0)
        return Episode(sample.uid, (turn,), end_of(turn, readable=bool(prompts)), answer)

    def terms(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None
    ) -> dict[str, Tensor]:
        found = [episode.answer.facts["box"] for episode in episodes]
        boxes_G4 = torch.tensor([box or [0.0] * 4 for box in found], dtype=torch.float64)
        true_G4 = self.true_box(sample).expand(len(episodes), 4)
        return {
            "readable": torch.tensor([float(box is not None) for box in found]),
            "hit": box_hit(boxes_G4, true_G4, self.options.iou_threshold),
        }

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        corners = self.true_box(sample).round().int().tolist()
        return ((self.question(sample), f"<answer>{corners}</answer>"),)

    def question(self, sample: Sample) -> Content:
        instruction = f'Give the box of "{sample.query}" as <answer>[x0, y0, x1, y1]</answer>.'
        return [View(0, *self.frame_hw), instruction]

    def true_box(self, sample: Sample) -> Tensor:
        x0, y0, x1, y1 = boxes_areas(sample)[0][0].tolist()
        return torch.tensor(scale_box((x0, y0, x1, y1), video_hw(sample), self.frame_hw))

    @property
    def frame_hw(self) -> tuple[int, int]:
        return self.options.frame_height, self.options.frame_width


def read_box(text: str) -> Box | None:
    """Return the box of an answer, or None; any text is taken, nothing raises."""
    corners = numbers(value(block(text, "answer") or ""), 4)
    if corners is None or corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None
    x0, y0, x1, y1 = corners
    return x0, y0, x1, y1


def square_sample() -> Sample:
    """Two frames of 40 x 60 pixels with a square in the upper left corner."""
    mask_HW = np.zeros((40, 60), dtype=bool)
    mask_HW[:20, :20] = True
    video = Video("v", "nowhere", ("00000", "00001"), 40, 60)
    return Sample("v/0", video, "the square", (Target("a", (encode(mask_HW),) * 2),))


class Parrot:
    """A policy that always says the same."""

    version = 0

    def __init__(self, text: str) -> None:
        self.text = text

    async def __call__(self, content: Content, *, max_tokens: int, trainable: bool = True) -> Turn:
        return Turn((1,), (2,), (-0.1,), self.text, (), True, self.version)


if __name__ == "__main__":
    system = FirstFrame.make({"frame_height": 56, "frame_width": 84})
    sample = square_sample()
    [(_, right)] = system.demonstrate(sample, np.random.default_rng(0))
    for text in (right, "<answer>[0, 0, 9, 9]</answer>", "no idea"):
        episode = asyncio.run(system.play(sample.bare, Parrot(text)))  # type: ignore[arg-type]
        [reward] = system.score(sample, [episode])
        print(f"{text}: {reward.total} = {reward.parts}")
