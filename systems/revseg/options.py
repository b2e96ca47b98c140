"""Options of ReVSeg. Numbers not marked as the paper's are chosen by this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.settings import setting
from systems.base import check_weights

# Terms of the reward and their weights in Eq. 8.
TERMS = {"format": 1.0, "temporal": 1.0, "spatial": 1.0}

# Least squares on the published training curves, which Eq. 8 cannot produce.
CURVE = {"format": 0.25, "temporal": 0.15, "spatial": 0.60}


@dataclass(frozen=True)
class ReVSegOptions:
    """`system.options` of ReVSeg. Sizes are pixels, rounded to whole image tokens."""

    num_frames: int = setting(16, help="frames shown in round 1, evenly spread", least=1)
    frame_height: int = setting(448, help="of a frame in round 1", least=1)
    frame_width: int = setting(448, help="of a frame in round 1", least=1)
    keyframe_height: int = setting(840, help="of the keyframe in round 2", least=1)
    keyframe_width: int = setting(840, help="of the keyframe in round 2", least=1)
    max_tokens_1: int = setting(1024, help="of the answer in round 1", least=1)
    max_tokens_2: int = setting(256, help="of the answer in round 2", least=1)
    prompt: Literal["full", "short"] = setting(
        "full", help="wording; short is for a policy taught the short form"
    )
    decompose: bool = setting(
        True, help="two rounds; false answers keyframe and box at once (ablation, Tab. 5)"
    )
    temporal_reward: Literal["none", "binary", "soft"] = setting(
        "soft", help="reward of the keyframe (ablation, Tab. 7)"
    )
    weights: Literal["paper", "curve"] | Mapping[str, float] = setting(
        "paper", help="of the terms: Eq. 8, fitted to the published curves, or by name"
    )
    iou_threshold: float = setting(0.5, help="a box above this IoU is a hit", least=0, below=1)
    strict_turn2_tags: bool = setting(
        False, help="round 2 must think and answer in tags, too (the paper says both)"
    )
    target_box: Literal["union"] = setting("union", help="the true box of several targets")

    def __post_init__(self) -> None:
        if not isinstance(self.weights, str):
            check_weights(self.weights, TERMS)

    @property
    def all_weights(self) -> dict[str, float]:
        """The weight of every term."""
        if self.weights == "curve":
            return CURVE
        if isinstance(self.weights, str):
            return TERMS
        return {**TERMS, **self.weights}

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width of a frame in round 1."""
        return self.frame_height, self.frame_width

    @property
    def box_hw(self) -> tuple[int, int]:
        """Height and width of the image in whose pixels the policy gives its box."""
        if self.decompose:
            return self.keyframe_height, self.keyframe_width
        return self.frame_hw
