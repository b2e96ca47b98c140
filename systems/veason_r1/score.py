"""The terms of Veason-R1's reward (docs/spec/veason_r1.md, Rewards)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.geometry import scale_box
from core.masks import area, box, boxes_areas, decode, union_of_targets
from core.types import Episode, EpisodeMasks, Sample
from rewards.clip_iou import clip_iou
from rewards.format import format_reward
from rewards.iou import box_iou
from rewards.keyframe_area import keyframe_area
from rewards.objects import matched_mean
from systems.base import video_hw

# Rules of the form, as facts of an answer.
RULES = ("tags", "json")


def form_term(episodes: Sequence[Episode]) -> Tensor:
    """Return the share of the rules that each answer keeps, (G,)."""
    kept_GR = [[episode.answer.facts[rule] for rule in RULES] for episode in episodes]
    return format_reward(torch.tensor(kept_GR))


def keyframe_term(sample: Sample, episodes: Sequence[Episode]) -> Tensor:
    """Return the relative size of the targets in each keyframe, (G,)."""
    chosen = [episode.answer.keyframe for episode in episodes]
    frames_G = torch.tensor([-1 if frame is None else frame for frame in chosen])
    _, areas_F = boxes_areas(sample)
    return keyframe_area(frames_G, torch.tensor(areas_F))


def boxes_term(sample: Sample, episodes: Sequence[Episode], hw: tuple[int, int]) -> Tensor:
    """Return the matched IoU of each answer's boxes with the true ones in its keyframe, (G,)."""
    ious_G = []
    for episode in episodes:
        boxes = torch.tensor(episode.answer.facts["boxes"], dtype=torch.float64).reshape(-1, 4)
        truth = true_boxes(sample, episode.answer.keyframe, hw)
        ious_G.append(_matched_iou(boxes, truth))
    return torch.tensor(ious_G, dtype=torch.float64)


def clip_term(sample: Sample, masks: EpisodeMasks) -> Tensor:
    """Return the mean IoU over the video of each answer's tracked masks, (G,)."""
    truth_F: list[np.ndarray | None] = []
    for rle in union_of_targets(sample):
        empty = rle is None or area(rle) == 0
        truth_F.append(None if rle is None or empty else decode(rle))
    return clip_iou(masks, truth_F)


def true_boxes(sample: Sample, frame: int | None, hw: tuple[int, int]) -> Tensor:
    """Return the box of each target visible in a frame, in pixels of an image of `hw`, (N, 4)."""
    boxes = []
    if frame is not None:
        for target in sample.targets:
            rle = target.masks_F[frame]
            if rle is not None and area(rle):
                boxes.append(scale_box(box(rle), video_hw(sample), hw))
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def _matched_iou(boxes_M4: Tensor, truth_N4: Tensor) -> float:
    """Sum of the IoUs of the best one-to-one matching, over max(M, N); 0 without boxes."""
    count = len(boxes_M4)
    true_count = len(truth_N4)
    if not count or not true_count:
        return 0.0
    pairs = box_iou(boxes_M4.repeat_interleave(true_count, 0), truth_N4.repeat(count, 1))
    return matched_mean(pairs.reshape(count, true_count), [count]).item()
