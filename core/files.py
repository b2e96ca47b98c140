"""Files that stay readable when a process is killed: JSON documents, and logs of JSON lines.

A document is written beside its final place and then renamed, so that readers see the old one or
the new one. A log is only ever appended to; `repair_lines` cuts off an interrupted line.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

# Errors of a full disk or quota, and of the size limit of a process.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of a disk that may not be written.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class UnwritableError(OSError):
    """A file could not be written; nothing that was written before is lost.

    Attributes:
        is_full: True if there was no room, which may come back.
    """

    def __init__(self, message: str, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full


@contextmanager
def disk_errors_named(file: Path) -> Iterator[None]:
    """Name the file and the free space in an error of the block's disk.

    Raises:
        UnwritableError: The disk is full, or the file may not be written.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in _FULL
        if not is_full and error.errno not in _READ_ONLY:
            raise
        message = (
            f"{file} could not be written ({error.strerror}), with {free_mb(file)} MB free on "
            "its disk: make room, or give another folder (runs=...), and start again"
        )
        raise UnwritableError(message, is_full) from error


def free_mb(file: Path) -> int:
    """Return the free space of a file's disk in MB; its folder may be missing."""
    folder = file.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of `file` if the block ends without an error.

    Raises:
        UnwritableError: As `disk_errors_named`. The old file stays as it is.
    """
    fresh = file.with_name(f".{file.name}.new")
    try:
        with disk_errors_named(file):
            yield fresh
            os.replace(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)


def write_atomic(file: Path, text: str) -> None:
    """Write `text` so that readers see the old text or the new one, never half of either."""
    with replacing(file) as fresh, fresh.open("w", encoding="utf-8", errors="surrogatepass") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as an indented JSON document, atomically."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(file, text + "\n")


def append_lines(file: Path, *values: Mapping[str, Any]) -> None:
    """Append a line for each value and wait for the disk: a kill loses at most these lines.

    Raises:
        UnwritableError: As `disk_errors_named`. None of the lines is then in the file.
    """
    append_text(file, "".join(json_line(value) for value in values))


def append_text(file: Path, text: str) -> None:
    """Append whole lines and wait for the disk, as `append_lines`."""
    # Texts of data may hold half of a surrogate pair, which JSON allows.
    append_bytes(file, text.encode(errors="surrogatepass"))


def append_bytes(file: Path, *parts: bytes | memoryview) -> None:
    """Append whole lines, given in parts, and wait for the disk, as `append_lines`."""
    with disk_errors_named(file), file.open("ab", buffering=0) as out:
        size = out.seek(0, os.SEEK_END)
        try:
            for part in parts:
                _write_all(out, part)
            os.fsync(out.fileno())
        except OSError:
            # A part of a line would spoil the next one.
            out.truncate(size)
            raise


def _write_all(out: FileIO, raw: bytes | memoryview) -> None:
    """Write all bytes. A full disk takes a part first, and gives the error after that."""
    left = memoryview(raw)
    while left:
        left = left[out.write(left) :]


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """Return the content of a JSON document of this program.

    Args:
        remedy: What to do about a broken one, for the message.

    Raises:
        ValueError: It is cut, no JSON object, or not text.
    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is broken ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is broken (no JSON object): {remedy}")
    return content


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
        except (ValueError, RecursionError) as error:
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
    try:
        # Most values are plain already: to unpack all of them first takes several times as long.
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_unpacked)
    except (TypeError, ValueError):
        text = json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)
    return text + "\n"


def _unpacked(value: Any) -> Any:
    """Return a value that is none of JSON's types as one of them. Raises TypeError."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


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
