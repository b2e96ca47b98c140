"""Overlay videos of some results of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from core.masks import union_of_targets
from ray_jobs.driver.results import Result
from ray_jobs.record.overlay import overlay_video

# Videos of the best and of the worst expressions, each.
OVERLAYS = 2
# Letters of a sample's uid in the name of its video.
LONGEST = 60


def write_overlays(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write a video of each result into `folder`/overlays, named by its J&F; return the files."""
    paths = []
    for result in results:
        # Names of data may be long, or hold what no file name may.
        uid = re.sub(r"[^\w.-]", "_", result.sample.uid)[:LONGEST]
        path = folder / "overlays" / f"{100 * result.jf:03.0f}_{uid}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        truth_F = union_of_targets(result.sample)
        overlay_video(path, result.sample, result.episode, result.masks_F, truth_F)
        paths.append(path)
    return paths
