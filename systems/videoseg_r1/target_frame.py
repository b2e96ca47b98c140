"""The target frame and key segment in training, chosen from the ground truth.

The paper trains without its frame sampler and does not say how it picks frames. This project takes
one of the frames with the largest targets.
"""

from __future__ import annotations

import numpy as np

from core.masks import area
from core.types import Sample
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.sampler import Choice

# `training_frame=largest` picks one of this many frames.
LARGEST = 5


def training_choice(
    sample: Sample, options: VideoSegR1Options, rng: np.random.Generator
) -> Choice | None:
    """Return a random target frame that shows a target, and a segment around it; None if none does.

    A sample without targets may have any target frame.
    """
    visible = visible_frames(sample, options)
    if not len(visible):
        return None
    return choice_around(sample, int(rng.choice(visible)), rng)


def choice_around(sample: Sample, frame: int, rng: np.random.Generator) -> Choice:
    """Return `frame` as the target frame, in a random segment of 10 to 50 % of the video."""
    num_frames = sample.video.num_frames
    length = max(round(num_frames * rng.uniform(0.1, 0.5)), 1)
    first = max(frame - length + 1, 0)
    last = min(frame, num_frames - length)
    start = int(rng.integers(first, last + 1))
    return Choice(start, start + length, frame)


def visible_frames(sample: Sample, options: VideoSegR1Options) -> np.ndarray:
    """Return the frames from which training may choose; every frame without targets."""
    num_frames = sample.video.num_frames
    if not sample.targets:
        return np.arange(num_frames)

    # Overlaps count twice: only the order of the areas matters.
    areas_F = np.zeros(num_frames, dtype=np.int64)
    for target in sample.targets:
        areas_F += np.array([0 if rle is None else area(rle) for rle in target.masks_F])
        if target.place is not None:
            x0, y0, x1, y1 = target.place.box
            areas_F[target.place.frame] += max(int((x1 - x0) * (y1 - y0)), 1)
    visible = np.flatnonzero(areas_F)
    if options.training_frame != "largest":
        return visible
    by_area = np.argsort(-areas_F[visible], kind="stable")
    return visible[by_area][:LARGEST]
