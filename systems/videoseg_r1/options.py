"""`system.options` of VideoSeg-R1, their meaning and defaults. A number without the paper as its source is ours."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from rewards.length import Budget
from systems.base import WHERE
from systems.videoseg_r1.sampler import Mode, Plan


@dataclass(frozen=True)
class VideoSegR1Options:
    """`system.options` of VideoSeg-R1. Sizes are pixels, multiples of 28; thresholds are pixels of the target frame."""

    key_frames: int = 8  # shown of the part of the video that matters
    reference_frames: int = 4  # shown of the whole video
    frame_height: int = 448
    frame_width: int = 448
    target_height: int = 840  # VisionReasoner's size
    target_width: int = 840
    max_tokens: int = 2000
    prompt: Literal["full", "short"] = "full"  # short: for a policy trained on the short form
    answer: Literal["point", "box", "box_point", "box_negative", "all"] = "all"  # ablation, Tab. 6
    think: bool = True  # False: no chain of thought, no reward for its form and no length penalty (ablation, Tab. 4)
    iou_source: Literal["box", "mask"] = (
        "box"  # mask: that of the segmenter's mask of each object takes its place
    )
    iou_threshold: float = 0.5  # the paper's; the next two are VisionReasoner's
    box_l1_threshold: float = 10.0
    point_threshold: float = 30.0
    negative_limit: float = 40.0  # the paper's
    length_penalty: Literal["clamped", "paper", "none"] = "clamped"  # paper: no floor at 0
    length_beta: float = 0.01  # for each token over the budget
    budget_easy: int = 48  # reasoning tokens, by difficulty
    budget_medium: int = 64
    budget_hard: int = 96
    difficulty_easy: float = 4.0  # easy up to here
    difficulty_medium: float = 7.0  # and medium; hard above
    training_frame: Literal["largest", "visible", "sampler"] = (
        "largest"  # `shown`: one of the 5 largest | any visible
    )
    sampler: Mode = "full"  # where no frame is given; ablation, Tab. 5
    sampler_samples: int = 10  # K
    sampler_top: int = 10  # M
    sampler_delta: float = 0.3
    sampler_rounds: int = 3
    sampler_frames: int = 16
    sampler_max_tokens: int = 128
    sampler_temperature: float = 0.6
    sampler_top_p: float = 0.9

    def __post_init__(self) -> None:
        for name, number in ((f.name, getattr(self, f.name)) for f in fields(self)):
            least = 0 if name == "reference_frames" else 1
            if (
                type(number) is int
                and number < least
                and not name.startswith(("length", "difficulty"))
            ):
                raise ValueError(f"{WHERE}.{name} = {number}: must be at least {least}")
            if name.endswith(("_threshold", "_limit", "_beta")) and number < 0:
                raise ValueError(f"{WHERE}.{name} = {number}: must not be negative")
        if self.iou_source == "mask" and not self.wants_box:
            raise ValueError(
                f"{WHERE}.iou_source = 'mask': answer = 'point' has no IoU; choose iou_source = 'box'"
            )
        if not 0 < self.sampler_delta <= 1:
            raise ValueError(f"{WHERE}.sampler_delta = {self.sampler_delta}: must lie in (0, 1]")
        if self.negative_limit >= self.target_height + self.target_width:
            raise ValueError(
                f"{WHERE}.negative_limit = {self.negative_limit}: must be below height + width"
            )

    @property
    def target_hw(self) -> tuple[int, int]:
        """Height and width of the image whose pixels answers are in."""
        return self.target_height, self.target_width

    @property
    def wants_box(self) -> bool:
        return self.answer != "point"

    @property
    def wants_point(self) -> bool:
        return self.answer in ("point", "box_point", "all")

    @property
    def wants_negative(self) -> bool:
        return self.answer in ("box_negative", "all")

    @property
    def lengths(self) -> dict[str, int]:
        """Keys that an object must have, and how many numbers each holds."""
        wanted = {
            "bbox_2d": self.wants_box,
            "point_2d": self.wants_point,
            "neg_point_2d": self.wants_negative,
        }
        return {key: 4 if key == "bbox_2d" else 2 for key, yes in wanted.items() if yes}

    @property
    def plan(self) -> Plan:
        own = {
            f.name: getattr(self, f"sampler_{f.name}")
            for f in fields(Plan)
            if hasattr(self, f"sampler_{f.name}")
        }
        return Plan(
            mode=self.sampler,
            height=self.frame_height,
            width=self.frame_width,
            prompt=self.prompt,
            **own,
        )

    @property
    def budget(self) -> Budget:
        return Budget(
            self.budget_easy,
            self.budget_medium,
            self.budget_hard,
            self.difficulty_easy,
            self.difficulty_medium,
        )
