"""Stored difficulty ratings, and how they become notes of samples.

    <folder>/<split>.json
        {"rater": "Qwen2.5-VL-7B-Instruct", "prompt": 1, "samples": {uid:
            {"query": "...", "ratings": {"scene_complexity": 3, ..}, "attempts": 1}}}

`ray_jobs.rate_difficulty` writes these files. A system computes the difficulty D from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Sample

REMEDY = "`ray_jobs.rate_difficulty` makes it"


def ratings_file(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"{split}.json"


def load_ratings(file: Path) -> dict[str, Any]:
    """Return the content of a file of ratings.

    Raises:
        ValueError: The file is missing, or holds something else.
    """
    if not file.is_file():
        raise ValueError(f"difficulty.folder: no file {file}; {REMEDY}")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"difficulty.folder: {file} is not JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("samples"), dict):
        raise ValueError(f'difficulty.folder: {file} has no "samples"; {REMEDY}')
    return content


def with_ratings(samples: Sequence[Sample], folder: str, split: str) -> list[Sample]:
    """Return the samples with their stored ratings in their notes.

    Args:
        folder: `difficulty.folder`. If empty, the samples stay as they are.

    Raises:
        ValueError: The split has no file, or the file lacks a sample or has another query for it.
    """
    if not folder:
        return list(samples)

    file = ratings_file(folder, split)
    entries = load_ratings(file)["samples"]
    rated = []
    for sample in samples:
        entry = entries.get(sample.uid)
        if entry is None or entry.get("query") != sample.query:
            raise ValueError(
                f"difficulty.folder: {file} has no rating of {sample.uid!r} ({sample.query!r}): it "
                "belongs to another data set, version of it or data.no_target; run "
                "`ray_jobs.rate_difficulty` again"
            )
        notes = replace(sample.notes, ratings=dict(entry["ratings"]))
        rated.append(replace(sample, notes=notes))
    return rated
