"""Options of VideoSeg-R1. Numbers not marked as published are chosen by this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.settings import setting
from rewards.length import LengthBudget
from systems.base import WHERE, check_weights
from systems.videoseg_r1.sampler import Plan, SamplerMode

# Terms of the reward and their published weights. Their sum is multiplied by the length factor.
TERMS = {
    "think_format": 1.0,
    "answer_format": 1.0,
    "accuracy": 1.0,
    "negative": 1.0,
    "non_repeat": 1.0,
}


@dataclass(frozen=True)
class VideoSegR1Options:
    """`system.options` of VideoSeg-R1.

    Sizes are pixels, rounded to whole image tokens. Thresholds are pixels of the target frame.
    """

    key_frames: int = setting(8, help="frames shown of the key segment", least=1)
    reference_frames: int = setting(4, help="frames shown of the whole video", least=0)
    frame_height: int = setting(448, help="of these frames", least=1)
    frame_width: int = setting(448, help="of these frames", least=1)
    target_height: int = setting(840, help="of the target frame (VisionReasoner)", least=1)
    target_width: int = setting(840, help="of the target frame (VisionReasoner)", least=1)
    max_tokens: int = setting(2000, help="of the answer (VisionReasoner)", least=1)
    prompt: Literal["full", "short"] = setting(
        "full", help="wording; short is for a policy taught the short form"
    )
    answer: Literal["point", "box", "box_point", "box_negative", "all"] = setting(
        "all", help="what an object consists of (ablation, Tab. 6)"
    )
    think: bool = setting(
        True, help="false: no thought, no reward for its form, no length factor (ablation, Tab. 4)"
    )
    iou_source: Literal["box", "mask"] = setting(
        "box", help="IoU of the boxes, or of the segmenter's masks of the objects"
    )
    iou_threshold: float = setting(0.5, help="IoU of a match (published)", least=0)
    box_l1_threshold: float = setting(10.0, help="box distance (VisionReasoner)", least=0)
    point_threshold: float = setting(30.0, help="point distance (VisionReasoner)", least=0)
    negative_limit: float = setting(
        40.0, help="largest distance of a negative point from the targets (published)", least=0
    )
    weights: Mapping[str, float] = setting({}, help="of the terms, by name; others keep theirs")
    length_penalty: Literal["clamped", "paper", "none"] = setting(
        "clamped", help="length factor with a floor of 0, as published (no floor), or none"
    )
    length_beta: float = setting(0.01, help="for each reasoning token over the budget", least=0)
    budget_easy: int = setting(48, help="reasoning tokens for an easy query", least=1)
    budget_medium: int = setting(64, help="reasoning tokens for a medium query", least=1)
    budget_hard: int = setting(96, help="reasoning tokens for a hard query", least=1)
    difficulty_easy: float = setting(4.0, help="largest difficulty of an easy query")
    difficulty_medium: float = setting(7.0, help="largest difficulty of a medium query")
    training_frame: Literal["largest", "visible", "sampler"] = setting(
        "largest", help="target frame in training: one of the 5 largest, any visible, or sampled"
    )
    sampler: SamplerMode = setting("full", help="how frames are sampled (ablation, Tab. 5)")
    sampler_samples: int = setting(10, help="K, answers to each question", least=1)
    sampler_top: int = setting(10, help="M, positions in the mean", least=1)
    sampler_delta: float = setting(
        0.3, help="longer segments are narrowed again; share of the video", above=0, most=1
    )
    sampler_rounds: int = setting(3, help="most rounds of narrowing", least=1)
    sampler_frames: int = setting(16, help="frames shown with a question", least=1)
    sampler_max_tokens: int = setting(128, help="of an answer to the sampler", least=1)
    sampler_temperature: float = setting(0.6, help="of the sampler's questions (VISA)", least=0)
    sampler_top_p: float = setting(0.9, help="of the sampler's questions (VISA)", above=0, most=1)

    def __post_init__(self) -> None:
        check_weights(self.weights, TERMS)
        if self.iou_source == "mask" and not self.asks_box:
            raise ValueError(
                f"{WHERE}.iou_source = 'mask': answer = 'point' has no IoU; "
                "choose iou_source = 'box'"
            )
        if self.negative_limit >= self.target_height + self.target_width:
            raise ValueError(
                f"{WHERE}.negative_limit = {self.negative_limit}: must be below height + width"
            )

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width of the frames around the target frame."""
        return self.frame_height, self.frame_width

    @property
    def target_hw(self) -> tuple[int, int]:
        """Height and width of the image in whose pixels the policy answers."""
        return self.target_height, self.target_width

    @property
    def all_weights(self) -> dict[str, float]:
        """The weight of every term."""
        return {**TERMS, **self.weights}

    @property
    def asks_box(self) -> bool:
        return self.answer != "point"

    @property
    def asks_point(self) -> bool:
        return self.answer in ("point", "box_point", "all")

    @property
    def asks_negative(self) -> bool:
        return self.answer in ("box_negative", "all")

    @property
    def lengths(self) -> dict[str, int]:
        """The keys of an object, and how many numbers each holds."""
        lengths = {}
        if self.asks_box:
            lengths["bbox_2d"] = 4
        if self.asks_point:
            lengths["point_2d"] = 2
        if self.asks_negative:
            lengths["neg_point_2d"] = 2
        return lengths

    @property
    def plan(self) -> Plan:
        """The frame sampler's settings."""
        return Plan(
            mode=self.sampler,
            samples=self.sampler_samples,
            top=self.sampler_top,
            delta=self.sampler_delta,
            rounds=self.sampler_rounds,
            frames=self.sampler_frames,
            height=self.frame_height,
            width=self.frame_width,
            max_tokens=self.sampler_max_tokens,
            temperature=self.sampler_temperature,
            top_p=self.sampler_top_p,
            prompt=self.prompt,
        )

    @property
    def budget(self) -> LengthBudget:
        """Reasoning tokens by difficulty."""
        return LengthBudget(
            easy=self.budget_easy,
            medium=self.budget_medium,
            hard=self.budget_hard,
            easy_to=self.difficulty_easy,
            medium_to=self.difficulty_medium,
        )
