"""Options of Veason-R1. Numbers not marked as published are chosen by this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.settings import setting
from systems.base import check_weights

# Terms of the reward and their weights; published: the plain sum.
TERMS = {"form": 1.0, "keyframe": 1.0, "boxes": 1.0, "clip": 1.0}


@dataclass(frozen=True)
class VeasonR1Options:
    """`system.options` of Veason-R1."""

    num_frames: int = setting(6, help="frames shown, evenly spread (published: 6)", least=1)
    frame_height: int = setting(560, help="pixels of each shown frame (published: 560)", least=1)
    frame_width: int = setting(560, help="pixels of each shown frame (published: 560)", least=1)
    large_frame: bool = setting(
        True, help="training shows one of the 5 frames with the largest targets (published: true)"
    )
    max_tokens: int = setting(1024, help="of the answer (published: 1024)", least=1)
    prompt: Literal["full", "short"] = setting(
        "full", help="wording; short is for a policy taught the short form"
    )
    weights: Mapping[str, float] = setting(
        {}, help="of terms of the reward; the others keep theirs"
    )

    def __post_init__(self) -> None:
        check_weights(self.weights, TERMS)

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width of a shown frame; boxes are in its pixels."""
        return self.frame_height, self.frame_width

    @property
    def all_weights(self) -> dict[str, float]:
        """The weight of every term."""
        return {**TERMS, **self.weights}
