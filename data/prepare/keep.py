"""Which videos of a data set are worth training on: the file that the label filter writes and loading reads.

ReVSeg section 4.1: SAM 2 is prompted on every frame with the ground-truth box; all queries of a video whose mean IoU
with the ground-truth mask is below 0.6 are dropped. A mask that the segmenter cannot get from a perfect box is a bad
label, or one that no answer can reach. This file decides from numbers; it runs no segmenter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.types import Sample


@dataclass(frozen=True)
class Judged:
    """How well the segmenter gets a video's labels from their boxes: over all objects and frames where they are."""

    video: str
    masks: int  # that were compared
    mean_iou: float | None  # None: no object is visible, there is nothing to compare

    def good(self, threshold: float) -> bool:
        """A video without visible objects stays: it has no labels that could be bad."""
        return self.mean_iou is None or self.mean_iou >= threshold


def iou(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 if both are empty."""
    union = np.count_nonzero(a_HW | b_HW)
    return np.count_nonzero(a_HW & b_HW) / union if union else 1.0


def keep_content(
    judged: Sequence[Judged], threshold: float, about: Mapping[str, Any], samples: Sequence[Sample]
) -> dict[str, Any]:
    """The content of keep.json for the samples of a split; `about` says of which data set and by which segmenter.

    Videos that were not judged are those whose frames or masks are broken.
    """
    good = {j.video for j in judged if j.good(threshold)}
    seen = {j.video for j in judged}
    return {
        **about,
        "threshold": threshold,
        "expressions_with_target": sum(s.video.uid in good and len(s.targets) > 0 for s in samples),
        "keep": [j.video for j in judged if j.video in good],
        "drop": [j.video for j in judged if j.video not in good],
        "broken": list(dict.fromkeys(s.video.uid for s in samples if s.video.uid not in seen)),
        "videos": {j.video: {k: v for k, v in asdict(j).items() if k != "video"} for j in judged},
    }


def keep(samples: Sequence[Sample], file: Path) -> list[Sample]:
    """The samples whose video is in the "keep" list of a file, in their order.

    The file is one that `ray_jobs.prepare` wrote, or by hand: {"keep": [video uid, ..]}. ValueError if it is none, if
    it is about other videos, or if it never judged a video of these samples.
    """
    content = _read(file)
    good = set(content["keep"])
    left = [sample for sample in samples if sample.video.uid in good]
    if samples and not left:
        raise ValueError(
            f"data.keep_file={file}: keeps none of the {len(samples)} samples, such as those of video "
            f"{samples[0].video.uid!r}: it belongs to another data set or split, or its threshold is too high"
        )
    looked_at = {*content["videos"], *content.get("broken", ())} if "videos" in content else None
    unknown = [
        s.video.uid for s in samples if looked_at is not None and s.video.uid not in looked_at
    ]
    if unknown:
        raise ValueError(
            f"data.keep_file={file}: video {unknown[0]!r} was never judged: run the filter of `ray_jobs.prepare` again"
        )
    return left


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(
            f"data.keep_file={file}: no such file; `ray_jobs.prepare` writes it with its step `filter`"
        )
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"data.keep_file={file}: not JSON ({error})") from error
    kept = content.get("keep") if isinstance(content, dict) else None
    if not isinstance(kept, list) or not all(isinstance(uid, str) for uid in kept):
        raise ValueError(f'data.keep_file={file}: "keep" must be a list of video uids')
    return content
