"""How hard a sentence about a synthetic video is: known from how it was made, where a model would have to guess.

The five aspects of `core.difficulty` from the kind of sentence, the number of shapes and the true masks; the scale of
each is ours, spread over what the data set has. With it a length budget by difficulty can be tried without any rater.
Knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.difficulty import LEAST, MOST
from core.masks import boxes_areas
from core.types import Sample

LANGUAGE: Mapping[
    str, int
] = {  # by kind of sentence: how many shapes, and how much of the video, it takes to tell
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
    """Ratings of one expression.

    Args:
        num_objects: shapes in the video.

    Raises:
        ValueError: a kind of sentence that the generator does not make: this is another data set.
    """
    if sample.kind not in LANGUAGE:
        raise ValueError(
            f"{sample.uid}: kind {sample.kind!r} is not one of the synthetic data set's"
        )
    boxes_F4, areas_F = boxes_areas(sample)
    seen_F = areas_F > 0
    small_F = seen_F & (areas_F < areas_F.max(initial=0) / 2)  # or hidden in part
    return {
        "scene_complexity": _between(num_objects, 3, 5.25),
        "segmentation_challenge": _between(small_F.sum() / max(seen_F.sum(), 1), 0.4, 0.7),
        "temporal_ambiguity": _between(1 - seen_F.mean(), 0.4, 0.7),
        "motion_complexity": _between(_way(boxes_F4[seen_F]) / sample.video.width, 0.0, 0.7),
        "linguistic_ambiguity": LANGUAGE[sample.kind],
    }


def _way(boxes_N4: np.ndarray) -> float:
    """Pixels that the middle of the boxes travels."""
    middles_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    return float(np.linalg.norm(np.diff(middles_N2, axis=0), axis=1).sum())


def _between(value: float, easy: float, hard: float) -> int:
    """LEAST up to `easy`, MOST from `hard`, even steps between: the data set's own range of the value is spread out."""
    share = min(max((float(value) - easy) / (hard - easy), 0.0), 1.0)
    return LEAST + round((MOST - LEAST) * share)
