"""Difficulty of a sentence about a synthetic video, computed from how the video was made.

Rates the five aspects of `core.difficulty` from the kind of sentence, the number of shapes and the
true masks. The scale of each aspect is chosen by this project and spread over the range of the
data set. With these ratings a length budget by difficulty can be tried without any rater model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.difficulty import LEAST, MOST
from core.masks import boxes_areas
from core.types import Sample

# By kind of sentence: how many shapes, and how much of the video, it takes to find the target.
LANGUAGE: Mapping[str, int] = {
    "look": 1,
    "motion": 4,
    "size": 5,
    "order": 6,
    "relation": 7,
    "several": 8,
    "hiding": 9,
    "none": 10,
}


def true_ratings(sample: Sample, num_objects: int) -> dict[str, int]:
    """Return the ratings of one sample, by aspect.

    Args:
        num_objects: Number of shapes in the video.

    Raises:
        ValueError: The sample's kind is unknown here: it is from another data set.
    """
    if sample.kind not in LANGUAGE:
        raise ValueError(
            f"{sample.uid}: kind {sample.kind!r} is not one of the synthetic data set's"
        )

    boxes_F4, areas_F = boxes_areas(sample)
    seen_F = areas_F > 0
    # Small, or hidden in part.
    small_F = seen_F & (areas_F < areas_F.max(initial=0) / 2)
    small_share = small_F.sum() / max(seen_F.sum(), 1)
    travelled = _distance(boxes_F4[seen_F]) / sample.video.width
    return {
        "scene_complexity": _spread(num_objects, 3, 5.25),
        "segmentation_challenge": _spread(small_share, 0.4, 0.7),
        "temporal_ambiguity": _spread(1 - seen_F.mean(), 0.4, 0.7),
        "motion_complexity": _spread(travelled, 0.0, 0.7),
        "linguistic_ambiguity": LANGUAGE[sample.kind],
    }


def _distance(boxes_N4: np.ndarray) -> float:
    """Return the length of the path of the boxes' centres, in pixels."""
    centres_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    steps_N2 = np.diff(centres_N2, axis=0)
    return float(np.linalg.norm(steps_N2, axis=1).sum())


def _spread(value: float, easy: float, hard: float) -> int:
    """Map a value to the scale: LEAST up to `easy`, MOST from `hard`, even steps between."""
    share = min(max((float(value) - easy) / (hard - easy), 0.0), 1.0)
    return LEAST + round((MOST - LEAST) * share)
