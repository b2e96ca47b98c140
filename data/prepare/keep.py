"""The videos of a data set to train on: the file of the label filter.

ReVSeg (section 4.1) prompts SAM 2 on every frame with the true box, and drops all queries of a
video if the mean IoU with the true masks is below 0.6. If the segmenter misses a mask from a
perfect box, the mask is a bad label, or out of reach of any answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.types import Sample


@dataclass(frozen=True)
class Judged:
    """How well the segmenter reproduces a video's masks from their boxes.

    Attributes:
        masks: Number of masks compared, over all objects and frames.
        mean_iou: Their mean IoU; None if no object is visible.
    """

    video: str
    masks: int
    mean_iou: float | None

    def good(self, threshold: float) -> bool:
        """Return True for a video to keep. One without visible objects has no labels to be bad."""
        return self.mean_iou is None or self.mean_iou >= threshold


def iou(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    """Return the IoU of two bool masks; 1 if both are empty."""
    union = np.count_nonzero(a_HW | b_HW)
    if not union:
        return 1.0
    return np.count_nonzero(a_HW & b_HW) / union


def keep_content(
    judged: Sequence[Judged], threshold: float, about: Mapping[str, Any], samples: Sequence[Sample]
) -> dict[str, Any]:
    """Return the content of keep.json for a split.

    Args:
        about: Facts to add, such as the data set and the segmenter.
        samples: The samples of the split. A video without a judgement is broken.
    """
    keep: list[str] = []
    drop: list[str] = []
    videos = {}
    for one in judged:
        if one.good(threshold):
            keep.append(one.video)
        else:
            drop.append(one.video)
        videos[one.video] = {"masks": one.masks, "mean_iou": one.mean_iou}

    good = set(keep)
    broken: dict[str, None] = {}
    expressions_with_target = 0
    for sample in samples:
        if sample.video.uid not in videos:
            broken[sample.video.uid] = None
        if sample.targets and sample.video.uid in good:
            expressions_with_target += 1
    return {
        **about,
        "threshold": threshold,
        "expressions_with_target": expressions_with_target,
        "keep": keep,
        "drop": drop,
        "broken": list(broken),
        "videos": videos,
    }


def keep_samples(samples: Sequence[Sample], file: Path) -> list[Sample]:
    """Return the samples of the videos in the "keep" list of a file, in their order.

    `ray_jobs.prepare` writes the file, or a person: {"keep": [video uid, ..]}.

    Raises:
        ValueError: The file holds something else, is about other videos, or never judged a video of
            these samples.
    """
    content = _read_keep_file(file)
    good = set(content["keep"])
    kept = [sample for sample in samples if sample.video.uid in good]
    if samples and not kept:
        raise ValueError(
            f"data.keep_file={file}: keeps none of the {len(samples)} samples, such as those of "
            f"video {samples[0].video.uid!r}: it belongs to another data set or split, or its "
            "threshold is too high"
        )

    # A file by hand lists no judged videos.
    if "videos" in content:
        judged = {*content["videos"], *content.get("broken", ())}
        for sample in samples:
            if sample.video.uid not in judged:
                raise ValueError(
                    f"data.keep_file={file}: video {sample.video.uid!r} was never judged: run the "
                    "filter of `ray_jobs.prepare` again"
                )
    return kept


def _read_keep_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(
            f"data.keep_file={file}: no such file; `ray_jobs.prepare` writes it with its step "
            "`filter`"
        )
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"data.keep_file={file}: not JSON ({error})") from error
    kept = content.get("keep") if isinstance(content, dict) else None
    if not isinstance(kept, list) or not all(isinstance(uid, str) for uid in kept):
        raise ValueError(f'data.keep_file={file}: "keep" must be a list of video uids')
    assert isinstance(content, dict)
    return content
