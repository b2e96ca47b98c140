"""Options of VideoSEG-O3, and its three sets of frame budgets. Numbers are those of the released code; "ours" marks
the rest. This file knows no prompt and no reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from core.settings import unknown_name as unknown
from core.types import Vision
from systems.base import WHERE

PATCH = 28 * 28  # pixels of a token of Qwen2.5-VL, in which the release counts its budgets


@dataclass(frozen=True)
class Budget:
    """Frames that are shown and how large: `..._pixels` is the most an image may have. Tokens are of one answer."""

    temporal_frames: int  # of the whole video, small, at the start
    spatial_frames: int  # of the whole video, larger, at the start
    round_frames: int  # of the part that was asked for, small, in each later round
    temporal_pixels: int
    spatial_pixels: int
    key_pixels: int  # of the keyframe that was asked for
    max_tokens: int


BUDGETS = {  # the release has three sets in three files (SPEC A.3)
    "rl": Budget(10, 5, 5, 32 * PATCH, 128 * PATCH, 256 * PATCH, 512),
    "evaluation": Budget(20, 8, 5, 32 * PATCH, 256 * PATCH, 512 * PATCH, 1024),
    "cold_start": Budget(20, 5, 10, 32 * PATCH, 128 * PATCH, 512 * PATCH, 1024),
}
MASKED = ("mask", "keyframe_gain", "progress")  # parts of the reward that need masks
PARTS = ("format", "steps", "span", "keyframe", *MASKED, "tiou")
WEIGHTS = {
    part: 0.0 if part == "tiou" else 1.0 for part in PARTS
}  # released: the sum; the true tIoU is ours

Mode = Literal["as_released", "as_intended"]


@dataclass(frozen=True)
class VideoSegO3Options:
    """`system.options` of VideoSEG-O3. Frame and pixel numbers of 0 are those of `budget`."""

    budget: Literal["rl", "evaluation", "cold_start"] = "rl"
    temporal_frames: int = 0
    spatial_frames: int = 0
    round_frames: int = 0
    temporal_pixels: int = 0
    spatial_pixels: int = 0
    key_pixels: int = 0
    max_tokens: int = 0
    max_turns: int = 3  # 1: no <select> (ablation)
    prompt: Literal["full", "short"] = "full"  # short: for a policy trained on the short form
    bare_json: bool = (
        False  # a <select> may lack <VTG>: so in the release's evaluation, not in its training
    )
    # On which frame a turn's mask is made. as_released: the one that the turn before asked for, at first the middle
    # of the video; own: the one that the turn itself names, which it may have seen only in passing.
    keyframe_rule: Literal["as_released", "own"] = "as_released"
    segs_per_turn: int = (
        3  # [SEG] tokens of a turn that are decoded, the last ones; the release: 3 of an episode
    )
    rewards: Mode = "as_released"
    weights: Mapping[str, float] = field(
        default_factory=dict
    )  # of parts of the reward; the others keep WEIGHTS

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            number = getattr(self, name)
            least = 0 if hasattr(BUDGETS["rl"], name) else 1
            if type(number) is int and number < least:
                raise ValueError(f"{WHERE}.{name} = {number}: must be at least {least}")
        for key in self.weights:
            if key not in PARTS:
                raise ValueError(unknown(f"{WHERE}.weights.{key}", key, PARTS))

    def check_pixels(self, vision: Vision) -> None:
        """Raise ValueError for a pixel budget below one image token."""
        smallest = vision.cell**2
        for name in ("temporal_pixels", "spatial_pixels", "key_pixels"):
            pixels = getattr(self.frames, name)
            if pixels < smallest:
                raise ValueError(
                    f"{WHERE}.{name}={pixels}: an image has at least {smallest} pixels"
                )

    @property
    def frames(self) -> Budget:
        """The budget, with the numbers that are given one by one."""
        given = {f.name: getattr(self, f.name) for f in fields(Budget) if getattr(self, f.name)}
        return replace(BUDGETS[self.budget], **given)

    @property
    def all_weights(self) -> dict[str, float]:
        return WEIGHTS | {name: float(weight) for name, weight in self.weights.items()}


def fit(height: int, width: int, pixels: int, factor: int) -> tuple[int, int]:
    """The size at which an image is shown: about its own and its aspect, sides multiples of `factor`, at most
    `pixels`, and at least one `factor` a side. Smaller images are not blown up."""
    rows, columns = (max(round(side / factor), 1) for side in (height, width))
    most = pixels // factor**2
    if rows * columns > most:
        shrink = math.sqrt(pixels / (height * width)) / factor
        rows, columns = (max(int(side * shrink), 1) for side in (height, width))
        rows = min(rows, most)  # where the other side could not shrink any more
        columns = min(columns, most // rows)
    return rows * factor, columns * factor


def spread(num_frames: int, count: int) -> list[int]:
    """`count` frames from the first to the last at even steps, as released; all of them if there is at most one more.

    The middle one for a count of 1 (ours).
    """
    if num_frames <= count + 1:
        return list(range(num_frames))
    if count == 1:
        return [num_frames // 2]
    return [i * (num_frames - 1) // (count - 1) for i in range(count)]
