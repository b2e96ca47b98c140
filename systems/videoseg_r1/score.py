"""The terms of VideoSeg-R1's reward (docs/spec/videoseg_r1.md, Rewards)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.difficulty import LEAST, MOST, UNKNOWN, difficulty
from core.geometry import Grid
from core.masks import area, box, decode
from core.points import inner_point, resize_mask, scale_pixel
from core.types import Episode, EpisodeMasks, MaskPrompt, Reward, Rle, Sample
from rewards.answers import answer_format, non_repeat, think_format
from rewards.iou import mask_iou_table
from rewards.length import soft_length
from rewards.negative_points import negative_points, taxicab_distance
from rewards.objects import Thresholds, matched_mean, pair_scores
from systems.base import parts_of_episodes, said, video_hw, weighted_sum
from systems.videoseg_r1.answers import (
    MAX_OBJECTS,
    coordinates,
    mask_prompt,
    negatives,
    objects_of_items,
    strict_answer,
)
from systems.videoseg_r1.options import VideoSegR1Options

# The segmenter's mask of each mask prompt; None where it made none.
MaskTable = Mapping[MaskPrompt, np.ndarray | None]


@dataclass(frozen=True)
class Truth:
    """The N targets in one frame.

    Attributes:
        boxes_N4: in pixels of the target image, x1 and y1 inside.
        points_N2: the middle of each target, in pixels of the target image.
        union_HW: bool, at the size of the video.
        own_NHW: the mask of each target, bool, at the size of the video.
    """

    boxes_N4: np.ndarray
    points_N2: np.ndarray
    union_HW: np.ndarray
    own_NHW: np.ndarray


def truth_in(sample: Sample, frame: int, target_hw: tuple[int, int]) -> Truth:
    """Return the targets that `frame` shows.

    Boxes and points are scaled to the target image as in VisionReasoner's data preparation.
    """
    if any(target.place is not None for target in sample.targets):
        return _truth_of_places(sample, frame, target_hw)
    return _truth_of_masks(sample, frame, target_hw)


def _truth_of_masks(sample: Sample, frame: int, target_hw: tuple[int, int]) -> Truth:
    height, width = video_hw(sample)
    rles = [target.masks_F[frame] for target in sample.targets]
    visible = [rle for rle in rles if rle is not None and area(rle)][:MAX_OBJECTS]
    own_NHW = _decoded(visible, height, width)

    boxes_N4 = np.zeros((len(visible), 4))
    points_N2 = np.zeros((len(visible), 2))
    for i, rle in enumerate(visible):
        x0, y0, x1, y1 = box(rle)
        first = _scaled((x0, y0), (height, width), target_hw)
        last = _scaled((x1 - 1, y1 - 1), (height, width), target_hw)
        boxes_N4[i] = (*first, *last)
        points_N2[i] = _scaled(inner_point(own_NHW[i]), (height, width), target_hw)
    return Truth(boxes_N4, points_N2, np.asarray(own_NHW.any(axis=0)), own_NHW)


def _truth_of_places(sample: Sample, frame: int, target_hw: tuple[int, int]) -> Truth:
    """Return the targets of a data set without masks: their masks are empty and never read.

    `VideoSegR1.needs_masks` says which options read masks.
    """
    hw = video_hw(sample)
    places = [target.place for target in sample.targets]
    visible = [place for place in places if place is not None and place.frame == frame]
    visible = visible[:MAX_OBJECTS]
    boxes_N4 = np.zeros((len(visible), 4))
    points_N2 = np.zeros((len(visible), 2))
    for i, place in enumerate(visible):
        x0, y0, x1, y1 = place.box
        first = _scaled((x0, y0), hw, target_hw)
        last = _scaled((x1 - 1, y1 - 1), hw, target_hw)
        boxes_N4[i] = (*first, *last)
        points_N2[i] = _scaled(place.point, hw, target_hw)
    own_NHW = np.zeros((len(visible), *hw), bool)
    return Truth(boxes_N4, points_N2, np.zeros(hw, bool), own_NHW)


def rewards_of(
    sample: Sample,
    episodes: Sequence[Episode],
    masks: EpisodeMasks | None,
    options: VideoSegR1Options,
    grid: Grid,
) -> list[Reward]:
    """Return the weighted sum of the terms times the length factor (Eq. 7 and 8) for each episode.

    Only strict JSON earns, as published. An answer cut off by its budget earns for not repeating
    itself alone.
    """
    terms = terms_of(sample, episodes, masks, options, grid)
    length_G = length_factor(sample, episodes, options)
    parts_G = parts_of_episodes({**terms, "length": length_G})

    # The length factor is no summand.
    weights = {**options.all_weights, "length": 0.0}
    totals_G = weighted_sum(parts_G, weights)
    rewards = []
    for total, parts in zip(totals_G, parts_G, strict=True):
        rewards.append(Reward(total * parts["length"], parts))
    return rewards


def terms_of(
    sample: Sample,
    episodes: Sequence[Episode],
    masks: EpisodeMasks | None,
    options: VideoSegR1Options,
    grid: Grid,
) -> dict[str, Tensor]:
    """Return the terms of the reward, float64 (G,) each.

    Without targets the empty list earns full format and accuracy, and objects earn no accuracy. If
    the target frame shows no target but another frame does, nothing earns accuracy: "no such
    object" would be the wrong answer.
    """
    texts_G = [said(episode.turns[-1]) for episode in episodes]
    answers_G = [strict_answer(text) for text in texts_G]
    format_G = answer_format(answers_G, options.lengths)
    if sample.targets:
        accuracy_G, negative_G = _location_terms(sample, episodes, answers_G, masks, options, grid)
    else:
        right_G = torch.tensor([answer == [] for answer in answers_G])
        format_G = torch.where(right_G, float(len(options.lengths)), format_G)
        accuracy_G = torch.where(right_G, _most_accuracy(options), 0.0).double()
        negative_G = torch.zeros_like(accuracy_G)
    return {
        "think_format": think_format(texts_G) * options.think,
        "answer_format": format_G,
        "accuracy": accuracy_G,
        "negative": negative_G,
        "non_repeat": non_repeat([episode.turns[-1].text for episode in episodes]),
    }


def length_factor(
    sample: Sample, episodes: Sequence[Episode], options: VideoSegR1Options
) -> Tensor:
    """Return the factor s of each episode's reward (Eq. 7), float64 (G,)."""
    if options.length_penalty == "none" or not options.think:
        return torch.ones(len(episodes), dtype=torch.float64)
    used_G = torch.tensor([float(episode.answer.reasoning_tokens or 0) for episode in episodes])
    budget = options.budget.of(difficulty_of(sample))
    clamp = options.length_penalty == "clamped"
    return soft_length(used_G, budget, options.length_beta, clamp=clamp)


def difficulty_of(sample: Sample) -> float:
    """Return D of a sample, from 1 to 10: the mean of its ratings, or D of the data set, or 5.5.

    Raises:
        ValueError: the data set gives something else.
    """
    notes = sample.notes
    if notes.ratings is not None:
        return difficulty(notes.ratings)
    note = UNKNOWN if notes.difficulty is None else notes.difficulty
    is_number = isinstance(note, int | float) and not isinstance(note, bool)
    if not is_number or not LEAST <= note <= MOST:
        raise ValueError(
            f"sample {sample.uid!r}: difficulty = {note!r}: expected a number from 1 to 10"
        )
    return float(note)


def _location_terms(
    sample: Sample,
    episodes: Sequence[Episode],
    answers_G: Sequence[Any],
    masks: EpisodeMasks | None,
    options: VideoSegR1Options,
    grid: Grid,
) -> tuple[Tensor, Tensor]:
    """Accuracy and negative-point reward, float64 (G,): episodes of one target frame together."""
    table = _mask_table(episodes, masks)
    accuracy_G = torch.zeros(len(episodes), dtype=torch.float64)
    negative_G = torch.zeros_like(accuracy_G)
    for frame in {episode.answer.keyframe for episode in episodes}:
        assert frame is not None, "every episode has a target frame"
        rows = [g for g, episode in enumerate(episodes) if episode.answer.keyframe == frame]
        truth = truth_in(sample, frame, options.target_hw)
        if not len(truth.boxes_N4):
            continue
        answers_R = [answers_G[g] for g in rows]
        accuracy_G[rows] = _accuracy(sample, frame, answers_R, truth, table, options, grid)
        negative_G[rows] = _negative(answers_R, truth, options, grid)
    return accuracy_G, negative_G


def _accuracy(
    sample: Sample,
    frame: int,
    answers_G: Sequence[Any],
    truth: Truth,
    table: MaskTable,
    options: VideoSegR1Options,
    grid: Grid,
) -> Tensor:
    """Accuracy of the answers about one frame that shows a target."""
    objects_R6 = []
    counts_G = []
    counted = []
    for answer in answers_G:
        found = coordinates(answer, grid, options.asks_box, options.asks_point)
        objects_R6 += found
        counts_G.append(len(found))
        if found:
            counted.append(answer)
    rows_R6 = _table(objects_R6, 6)

    iou_RN = None
    if options.iou_source == "mask":
        made = [_mask_of(found, sample, frame, table, options) for found in _objects(counted, grid)]
        iou_RN = mask_iou_table(made, torch.tensor(truth.own_NHW))
    limits = Thresholds(options.iou_threshold, options.box_l1_threshold, options.point_threshold)
    scores_RN = pair_scores(
        rows_R6[:, :4] if options.asks_box else None,
        rows_R6[:, 4:] if options.asks_point else None,
        _table(truth.boxes_N4, 4),
        _table(truth.points_N2, 2),
        limits,
        iou_RN,
    )
    return matched_mean(scores_RN, counts_G)


def _negative(
    answers_G: Sequence[Any], truth: Truth, options: VideoSegR1Options, grid: Grid
) -> Tensor:
    """Negative-point reward of the answers about one frame that shows a target."""
    points = []
    counts_G = []
    for answer in answers_G:
        found = negatives(answer, grid) if options.asks_negative else []
        points += found
        counts_G.append(len(found))
    if not points:
        return torch.zeros(len(answers_G), dtype=torch.float64)
    union_HW = torch.tensor(resize_mask(truth.union_HW, options.target_hw))
    distance_HW = taxicab_distance(union_HW)
    return negative_points(_table(points, 2), counts_G, distance_HW, options.negative_limit)


def _most_accuracy(options: VideoSegR1Options) -> float:
    """The accuracy of a perfect answer."""
    return 2.0 * options.asks_box + 1.0 * options.asks_point


def _mask_table(episodes: Sequence[Episode], masks: EpisodeMasks | None) -> MaskTable:
    if masks is None:
        return {}
    table: dict[MaskPrompt, np.ndarray | None] = {}
    for episode, own in zip(episodes, masks, strict=True):
        table.update(zip(episode.answer.prompts, own, strict=True))
    return table


def _objects(answers: Sequence[Any], grid: Grid) -> list[Any]:
    """All objects of some strict answers, one after the other."""
    objects = []
    for answer in answers:
        objects += objects_of_items(answer, grid)
    return objects


def _mask_of(
    found: Any, sample: Sample, frame: int, table: MaskTable, options: VideoSegR1Options
) -> np.ndarray | None:
    prompt = mask_prompt(found, frame, video_hw(sample), options.target_hw)
    return None if prompt is None else table[prompt]


def _decoded(rles: Sequence[Rle], height: int, width: int) -> np.ndarray:
    """Masks as bool (N, H, W)."""
    # Decoded masks lie by columns. Copying them as they lie is 20 times as fast.
    columns = [decode(rle).T for rle in rles]
    own_NWH = np.array(columns, dtype=bool).reshape(len(rles), width, height)
    return own_NWH.transpose(0, 2, 1)


def _scaled(
    point: tuple[float, float], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> tuple[int, int]:
    x, y = point
    return scale_pixel(x, from_hw[1], to_hw[1]), scale_pixel(y, from_hw[0], to_hw[0])


def _table(rows: Any, width: int) -> Tensor:
    """Rows of numbers as float64 (R, width), on the default device."""
    return torch.tensor(np.array(rows, dtype=np.float64).reshape(-1, width))
