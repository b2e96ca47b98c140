"""The ideal dialogue of VideoSeg-R1, from the ground truth."""

from __future__ import annotations

import json

import numpy as np

from core.geometry import Grid
from core.points import point_beside, resize_mask
from core.types import Sample
from systems.base import Demonstration, thought_of, whole_numbers
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.prompts import ask_objects
from systems.videoseg_r1.sampler import Choice
from systems.videoseg_r1.score import Truth, truth_in


def dialogue(
    sample: Sample,
    choice: Choice,
    options: VideoSegR1Options,
    grid: Grid,
    rng: np.random.Generator,
) -> Demonstration:
    """Return a dialogue that lists every target in the target frame; the empty list for none."""
    truth = truth_in(sample, choice.frame, options.target_hw)
    rows = [_spell(truth, i, options, grid, rng) for i in range(len(truth.boxes_N4))]
    text = f"<answer>{json.dumps(rows, separators=(',', ':'))}</answer>"
    if options.think:
        text = f"<think>{thought_of(sample)}</think>{text}"
    question = ask_objects(sample.query, sample.video.num_frames, choice, options, grid)
    return ((question, text),)


def _spell(
    truth: Truth, i: int, options: VideoSegR1Options, grid: Grid, rng: np.random.Generator
) -> dict[str, list[int]]:
    """Target i in the form of an answer."""
    row: dict[str, list[int]] = {}
    if options.asks_box:
        row["bbox_2d"] = whole_numbers(grid, truth.boxes_N4[i].tolist())
    if options.asks_point:
        row["point_2d"] = whole_numbers(grid, truth.points_N2[i].tolist())
    if options.asks_negative:
        own_HW = resize_mask(truth.own_NHW[i], options.target_hw)
        union_HW = resize_mask(truth.union_HW, options.target_hw)
        beside = point_beside(own_HW, union_HW, options.negative_limit, rng)
        if beside is not None:
            row["neg_point_2d"] = whole_numbers(grid, beside)
    return row
