"""Stored hints: a frozen policy's answers to auxiliary questions about the samples of a split.

The file of a split, <folder>/<split>.json:

    {uid: {"query": "...", "hints": {"target_frame": 12, "key_segment": [8, 15]}}}

"hints" is null where the policy was asked and gave no answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.files import replacing
from core.types import Hints, Sample

# What a file that holds something else makes of its reader.
BROKEN = (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError)


def hints_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.json"


def write_hints(
    folder: Path, split: str, samples: Sequence[Sample], found: Mapping[str, Hints | None]
) -> None:
    """Write the hints `found`, by the uid of their sample. The file appears whole or not at all."""
    file = hints_file(folder, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {}
    for sample in samples:
        if sample.uid in found:
            hints = found[sample.uid]
            answer = None if hints is None else hints.to_json()
            rows[sample.uid] = {"query": sample.query, "hints": answer}
    with replacing(file) as fresh:
        fresh.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read_hints(samples: Sequence[Sample], file: Path) -> dict[str, Hints | None]:
    """Return the hints of a file for these samples, by uid; None where no answer was given.

    Raises:
        ValueError: The file holds something else, or a sample has another query there.
    """
    try:
        known = {}
        for uid, row in json.loads(file.read_bytes()).items():
            known[uid] = (str(row["query"]), _hints_of(row["hints"]))
    except BROKEN as error:
        raise ValueError(
            f"{file}: not a file of hints ({type(error).__name__}: {error}); delete it: the next "
            "run asks again"
        ) from error

    found: dict[str, Hints | None] = {}
    for sample in samples:
        if sample.uid not in known:
            continue
        query, hints = known[sample.uid]
        if query != sample.query:
            raise ValueError(
                f"{file}: {sample.uid!r} is {query!r} there and {sample.query!r} in the data: they "
                "belong to another data set, or version of it; delete the file, or give another "
                "data.hints"
            )
        found[sample.uid] = hints
    return found


def with_hints(samples: Sequence[Sample], file: Path) -> list[Sample]:
    """Return the samples with their hints. A sample without an entry in the file gets none.

    Raises:
        ValueError: As `read_hints`.
    """
    found = read_hints(samples, file)
    return [replace(sample, hints=found.get(sample.uid)) for sample in samples]


def _hints_of(row: Mapping[str, Any] | None) -> Hints | None:
    if row is None:
        return None
    key_segment = row.get("key_segment")
    if key_segment is None:
        return Hints(row["target_frame"])
    start, stop = key_segment
    return Hints(row["target_frame"], (start, stop))
