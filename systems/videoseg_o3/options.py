"""Options of VideoSEG-O3 and its three sets of frame budgets.

Numbers are those of the released code unless marked as chosen by this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from core.settings import setting
from core.types import Vision
from rewards.reward_mode import RewardMode
from systems.base import WHERE, check_weights

# Pixels of a token of Qwen2.5-VL, in which the release counts its budgets.
PATCH = 28 * 28

# Terms of the reward and their weights in the release. The true temporal IoU is this project's.
TERMS = {
    "format": 1.0,
    "steps": 1.0,
    "span": 1.0,
    "keyframe": 1.0,
    "tiou": 0.0,
    "mask": 1.0,
    "keyframe_gain": 1.0,
    "progress": 1.0,
}

# Terms that are computed from drawn masks.
MASK_TERMS = ("mask", "keyframe_gain", "progress")


@dataclass(frozen=True)
class FrameBudget:
    """How many frames are shown, and how large.

    Attributes:
        temporal_frames: small frames of the whole video, in turn 1.
        spatial_frames: larger frames of the whole video, in turn 1.
        round_frames: small frames of the selected span, in each later turn.
        temporal_pixels: most pixels of a small frame.
        spatial_pixels: most pixels of a larger frame.
        key_pixels: most pixels of the selected keyframe.
        max_tokens: of one answer.
    """

    temporal_frames: int
    spatial_frames: int
    round_frames: int
    temporal_pixels: int
    spatial_pixels: int
    key_pixels: int
    max_tokens: int


# The release has three sets in three files.
BUDGETS = {
    "rl": FrameBudget(10, 5, 5, 32 * PATCH, 128 * PATCH, 256 * PATCH, 512),
    "evaluation": FrameBudget(20, 8, 5, 32 * PATCH, 256 * PATCH, 512 * PATCH, 1024),
    "cold_start": FrameBudget(20, 5, 10, 32 * PATCH, 128 * PATCH, 512 * PATCH, 1024),
}


@dataclass(frozen=True)
class VideoSegO3Options:
    """`system.options` of VideoSEG-O3. A frame or pixel number of 0 takes that of `budget`."""

    budget: Literal["rl", "evaluation", "cold_start"] = setting(
        "rl", help="the release's set of frame budgets"
    )
    temporal_frames: int = setting(0, help="small frames of the whole video, in turn 1", least=0)
    spatial_frames: int = setting(0, help="larger frames of the whole video, in turn 1", least=0)
    round_frames: int = setting(0, help="small frames of the selected span, later", least=0)
    temporal_pixels: int = setting(0, help="most pixels of a small frame", least=0)
    spatial_pixels: int = setting(0, help="most pixels of a larger frame", least=0)
    key_pixels: int = setting(0, help="most pixels of the selected keyframe", least=0)
    max_tokens: int = setting(0, help="of one answer", least=0)
    max_turns: int = setting(3, help="1: no <select> (ablation)", least=1)
    prompt: Literal["full", "short"] = setting(
        "full", help="wording; short is for a policy taught the short form"
    )
    instruct: Literal["user", "system"] = setting(
        "user",
        help="message that explains the task: of the user, or, as in the release, a system message",
    )
    bare_json: bool = setting(
        False, help="read a <select> without <VTG>, as the release's evaluation does"
    )
    keyframe_rule: Literal["as_released", "own"] = setting(
        "as_released",
        help="frame of a turn's mask: the one selected before, or the one the turn itself names",
    )
    segs_per_turn: int = setting(
        3,
        help="[SEG] tokens of a turn that are drawn, the last ones (release: 3 an episode)",
        least=1,
    )
    rewards: RewardMode = setting(
        "as_released", help="formulas of the released code, or as documented"
    )
    weights: Mapping[str, float] = setting({}, help="of the terms, by name; others keep theirs")

    def __post_init__(self) -> None:
        check_weights(self.weights, TERMS)

    def check_pixels(self, vision: Vision) -> None:
        """Check that every image has room for a token.

        Raises:
            ValueError: a pixel budget below one image token.
        """
        smallest = vision.cell**2
        for name in ("temporal_pixels", "spatial_pixels", "key_pixels"):
            pixels = getattr(self.frames, name)
            if pixels < smallest:
                raise ValueError(
                    f"{WHERE}.{name}={pixels}: an image has at least {smallest} pixels"
                )

    @property
    def fill_keys(self) -> bool:
        """Whether a look without one of its keys is read with a 0 in its place, as released."""
        return self.rewards == "as_released"

    @property
    def frames(self) -> FrameBudget:
        """The budget, with the numbers that are set one by one."""
        own = {}
        for each in fields(FrameBudget):
            number = getattr(self, each.name)
            if number:
                own[each.name] = number
        return replace(BUDGETS[self.budget], **own)

    @property
    def all_weights(self) -> dict[str, float]:
        """The weight of every term."""
        weights = dict(TERMS)
        for name, weight in self.weights.items():
            weights[name] = float(weight)
        return weights
