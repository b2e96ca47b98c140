"""The terms of ReVSeg's reward (docs/spec/revseg.md, Rewards)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.masks import boxes_areas
from core.types import Episode, Reward, Sample
from rewards.format import format_reward
from rewards.spatial import box_hit
from rewards.temporal import keyframe_size, keyframe_visible
from systems.base import parts_of_episodes, video_hw, weighted_sum
from systems.revseg.options import ReVSegOptions

# Rules of the format, in the order of the rounds: facts of an answer.
RULES = ("tags_1", "json_1", "tags_2", "json_2")

NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Truth:
    """The union of the targets in the F sampled frames.

    Attributes:
        boxes_F4: in pixels of the image in which the policy gives its box.
        visible_F: whether any target is visible.
    """

    boxes_F4: Tensor
    visible_F: Tensor


def truth_of(sample: Sample, frames: Sequence[int], hw: tuple[int, int]) -> Truth:
    """Return the ground truth in `frames`, scaled to an image of `hw`."""
    boxes_F4, areas_F = boxes_areas(sample)
    height, width = video_hw(sample)
    scale_4 = np.array([hw[1] / width, hw[0] / height] * 2)
    return Truth(torch.tensor(boxes_F4[frames] * scale_4), torch.tensor(areas_F[frames] > 0))


def rewards_of(episodes: Sequence[Episode], truth: Truth, options: ReVSegOptions) -> list[Reward]:
    """Return r = w_f r_f + w_t 1[S1] r_t + w_s 1[S1 and S2] r_s for each episode (Eq. 8).

    S1 and S2: round 1 and round 2 were readable. Without them an answer has no keyframe or no box,
    for which r_t and r_s are 0.
    """
    first, second = terms_of_rounds(episodes, truth, options)
    first_parts_G = parts_of_episodes(first)
    second_parts_G = parts_of_episodes(second)
    first_G = weighted_sum(first_parts_G, options.all_weights)
    second_G = weighted_sum(second_parts_G, options.all_weights)

    rewards = []
    for g, episode in enumerate(episodes):
        parts = dict(first_parts_G[g])
        for name, value in second_parts_G[g].items():
            parts[name] = parts.get(name, 0.0) + value
        total = first_G[g] + second_G[g]
        two_turns = len(episode.turns) == 2
        per_turn = (first_G[g], second_G[g]) if two_turns else (total,)
        rewards.append(Reward(total, parts, per_turn))
    return rewards


def terms_of_rounds(
    episodes: Sequence[Episode], truth: Truth, options: ReVSegOptions
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the terms of round 1 and of round 2, (G,) each; one in both counts as their sum."""
    format_G2 = _format_of_rounds(episodes)
    temporal_G, spatial_G = _temporal_and_spatial(episodes, truth, options)
    first = {"format": format_G2[:, 0], "temporal": temporal_G}
    second = {"format": format_G2[:, 1], "spatial": spatial_G}
    return first, second


def _format_of_rounds(episodes: Sequence[Episode]) -> Tensor:
    """Half of the share of rules kept in each round, (G, 2): they add up to r_f."""
    kept_GR = [[episode.answer.facts[rule] for rule in RULES] for episode in episodes]
    rules_GR = torch.tensor(kept_GR)
    rounds = [format_reward(rules_GR[:, :2]), format_reward(rules_GR[:, 2:])]
    return torch.stack(rounds, dim=1) / 2


def _temporal_and_spatial(
    episodes: Sequence[Episode], truth: Truth, options: ReVSegOptions
) -> tuple[Tensor, Tensor]:
    """Rewards of the keyframes and of the boxes in them, float64 (G,) each."""
    facts = [episode.answer.facts for episode in episodes]
    indices = [fact["frame_idx"] for fact in facts]
    frames_G = torch.tensor([-1 if index is None else index for index in indices])
    boxes_G4 = torch.tensor([fact["box"] or NO_BOX for fact in facts], dtype=torch.float64)

    temporal_G = _temporal(frames_G, truth, options)
    hit_G = box_hit(boxes_G4, truth.boxes_F4[frames_G.clamp(min=0)], options.iou_threshold)
    return temporal_G, torch.where(frames_G >= 0, hit_G, 0.0)


def _temporal(frames_G: Tensor, truth: Truth, options: ReVSegOptions) -> Tensor:
    if options.temporal_reward == "none":
        return torch.zeros(len(frames_G), dtype=torch.float64)
    if options.temporal_reward == "binary":
        return keyframe_visible(frames_G, truth.visible_F)
    widths_F = truth.boxes_F4[:, 2] - truth.boxes_F4[:, 0]
    heights_F = truth.boxes_F4[:, 3] - truth.boxes_F4[:, 1]
    return keyframe_size(frames_G, truth.visible_F, widths_F * heights_F)
