"""Files of ratings for the synthetic data set, from what is known of how it was made.

What `ray_jobs.rate_difficulty difficulty.rater=generator` writes, for runs that are to need no other job before them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.difficulty import PROMPT_VERSION
from data.difficulty import file_of
from data.load import load, video_objects
from tiny.world.difficulty import true_ratings
from tiny.world.write import SPLITS

RATER = "generator"


def write_ratings(root: Path, folder: Path) -> None:
    """Makes <folder>/<split>.json for those splits of the data set below `root` that have none yet."""
    for split, *_ in SPLITS:
        file = file_of(folder, split)
        if not file.is_file() and (root / split).is_dir():
            objects = video_objects("mevis", str(root), split)
            rated = {
                sample.uid: {
                    "query": sample.query,
                    "ratings": true_ratings(sample, len(objects[sample.video.uid])),
                    "attempts": 1,
                }
                for sample in load("mevis", str(root), split, no_target="keep")
            }
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{split}.{os.getpid()}.part")  # several runs may start at once
            part.write_text(
                json.dumps({"rater": RATER, "prompt": PROMPT_VERSION, "samples": rated}),
                encoding="utf-8",
            )
            part.replace(file)
