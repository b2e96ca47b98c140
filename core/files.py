"""Files that stay readable when a process is killed: JSON documents, and logs of JSON lines.

A document is written beside its final place and then renamed, so that readers see the old one or
the new one. A log is only ever appended to; `repair_lines` cuts off an interrupted line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of `file` if the block ends without an error."""
    fresh = file.with_name(f".{file.name}.new")
    yield fresh
    os.replace(fresh, file)


def write_atomic(file: Path, text: str) -> None:
    """Write `text` so that readers see the old text or the new one, never half of either."""
    with replacing(file) as fresh, fresh.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as an indented JSON document, atomically."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(file, text + "\n")


def append_lines(file: Path, *values: Mapping[str, Any]) -> None:
    """Append a line for each value and wait for the disk: a kill loses at most these lines."""
    append_text(file, "".join(json_line(value) for value in values))


def append_text(file: Path, text: str) -> None:
    """Append whole lines and wait for the disk."""
    with file.open("a", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the values of all whole lines.

    A last line without its newline is still being written and left out.

    Raises:
        ValueError: a line is no JSON object; names the file and the line.
    """
    if not file.exists():
        return []

    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    values = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: no JSON ({error}); remove the line") from None
        if not isinstance(value, dict):
            raise ValueError(f"{file}, line {number}: no JSON object; remove the line")
        values.append(value)
    return values


def repair_lines(file: Path) -> int:
    """Cut off a last line without its newline; return the number of bytes cut."""
    if not file.exists():
        return 0

    data = file.read_bytes()
    keep = data.rfind(b"\n") + 1
    if keep < len(data):
        with file.open("r+b") as out:
            out.truncate(keep)
    return len(data) - keep


def json_line(value: Mapping[str, Any]) -> str:
    """Return `value` as one line of JSON with its newline."""
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """Return `value` in JSON's own types: numpy unpacked, nan and infinity as strings."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
