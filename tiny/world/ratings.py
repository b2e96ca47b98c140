"""Rating files of the synthetic data set, computed from how it was made.

They equal the files of `ray_jobs.rate_difficulty difficulty.rater=generator`, so a run can start
without that job.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.difficulty import PROMPT_VERSION
from data.difficulty import ratings_file
from data.load import load_samples, video_objects
from tiny.world.difficulty import true_ratings
from tiny.world.write import SPLITS

RATER = "generator"


def write_ratings(root: Path, folder: Path) -> None:
    """Write <folder>/<split>.json for the splits below `root` without one."""
    for split, *_ in SPLITS:
        file = ratings_file(folder, split)
        if not file.is_file() and (root / split).is_dir():
            _write_split(root, split, file)


def _write_split(root: Path, split: str, file: Path) -> None:
    objects = video_objects("mevis", str(root), split)
    rated = {}
    for sample in load_samples("mevis", str(root), split, no_target="keep"):
        ratings = true_ratings(sample, len(objects[sample.video.uid]))
        rated[sample.uid] = {"query": sample.query, "ratings": ratings, "attempts": 1}

    content = {"rater": RATER, "prompt": PROMPT_VERSION, "samples": rated}
    file.parent.mkdir(parents=True, exist_ok=True)
    # Several runs may start at once, so each writes a file of its own before it takes its place.
    part = file.with_name(f".{split}.{os.getpid()}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(file)
