"""Stored hints: what a frozen policy found on the side about the samples of a split, such as their target frames.

    <folder>/<split>.json   {uid: {"query": "...", "hints": {"target_frame": 12, "key_segment": [8, 15]}}}

What they mean is the system's (`core.types.System.hints`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Hints, Sample


def file_of(folder: Path, split: str) -> Path:
    return folder / f"{split}.json"


def write(
    folder: Path, split: str, samples: Sequence[Sample], found: Mapping[str, Hints | None]
) -> None:
    """The hints that were found, by the uid of their sample. The file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for sample in samples:
        hints = found.get(sample.uid)
        if hints is not None:
            rows[sample.uid] = {"query": sample.query, "hints": hints.to_json()}
    part = folder / f".{split}.json.part"
    part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    os.replace(part, file_of(folder, split))


def with_hints(samples: Sequence[Sample], file: Path) -> list[Sample]:
    """The samples with their hints; one that the file does not know stays as it is.

    Raises:
        ValueError: the file is something else, or knows a sample by another sentence.
    """
    try:
        rows = json.loads(file.read_bytes())
        known = {uid: (str(row["query"]), _read(row["hints"])) for uid, row in rows.items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file}: not a file of hints ({type(error).__name__}: {error}); delete it: the next run asks again"
        ) from error
    hinted = []
    for sample in samples:
        query, hints = known.get(sample.uid, (sample.query, None))
        if query != sample.query:
            raise ValueError(
                f"{file}: {sample.uid!r} is {query!r} there and {sample.query!r} in the data: they belong to another "
                "data set, or version of it; delete the file, or give another data.hints"
            )
        hinted.append(replace(sample, hints=hints))
    return hinted


def _read(row: Mapping[str, Any]) -> Hints:
    start_stop = row.get("key_segment")
    if start_stop is None:
        return Hints(row["target_frame"])
    start, stop = start_stop
    return Hints(row["target_frame"], (start, stop))
