"""Stored difficulty ratings, and how they get into samples.

    <folder>/<split>.json   {"rater": "Qwen2.5-VL-7B-Instruct", "prompt": 1,
                             "samples": {uid: {"query": "...", "ratings": {"scene_complexity": 3, ..}, "attempts": 1}}}

`ray_jobs.rate_difficulty` writes them. What they mean is `core.difficulty`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.difficulty import difficulty
from core.types import Sample

REMEDY = "`ray_jobs.rate_difficulty` makes it"


def file_of(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"{split}.json"


def read(file: Path) -> dict[str, Any]:
    """Content of a file of ratings. ValueError if there is none, or it is something else."""
    if not file.is_file():
        raise ValueError(f"difficulty.folder: no file {file}; {REMEDY}")
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"difficulty.folder: {file} is not JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("samples"), dict):
        raise ValueError(f'difficulty.folder: {file} has no "samples"; {REMEDY}')
    return content


def with_difficulty(samples: Sequence[Sample], folder: str, split: str) -> list[Sample]:
    """The samples with their stored ratings in their notes: `difficulty` (D, 1 to 10) and `ratings`.

    Args:
        folder: `difficulty.folder`; empty: the samples stay as they are.

    Raises:
        ValueError: no file for this split, or a sample that it does not know or knows by another sentence.
    """
    if not folder:
        return list(samples)
    file = file_of(folder, split)
    rated = read(file)["samples"]
    noted = []
    for sample in samples:
        entry = rated.get(sample.uid)
        if entry is None or entry.get("query") != sample.query:
            raise ValueError(
                f"difficulty.folder: {file} has no rating of {sample.uid!r} ({sample.query!r}): it belongs to another "
                "data set, version of it or data.no_target; run `ray_jobs.rate_difficulty` again"
            )
        ratings = dict(entry["ratings"])
        notes = replace(sample.notes, difficulty=difficulty(ratings), ratings=ratings)
        noted.append(replace(sample, notes=notes))
    return noted
