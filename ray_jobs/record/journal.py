"""Results of a long job, one line for each finished piece, so that a job that was killed goes on where it was.

    with Journal.open(file, fingerprint) as journal:
        for uid in pieces:
            if uid not in journal.done:
                journal.add(uid, work(uid))

The first line says what the results belong to; with another fingerprint the journal starts from nothing. Lines reach
the disk about once a second: a kill costs that much work. This file does not know what the results mean.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from core.files import append_lines, read_lines, repair_lines

FLUSH_S = 1.0


@dataclass
class Journal:
    """`done`: the result of each finished piece, those of earlier runs included."""

    file: Path
    done: dict[str, Any] = field(default_factory=dict)
    found: int = 0  # pieces that were finished before this run
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, file: Path, fingerprint: str) -> Journal:
        """Goes on with a file of the same fingerprint; else, or where it cannot be read, starts a new one."""
        file.parent.mkdir(parents=True, exist_ok=True)
        repair_lines(file)
        try:
            lines = read_lines(file)
        except ValueError:  # not JSON: not ours
            lines = []
        if not lines or lines[0].get("fingerprint") != fingerprint:
            file.unlink(missing_ok=True)
            append_lines(file, {"fingerprint": fingerprint})
            return cls(file)
        done = {line["piece"]: line["result"] for line in lines[1:]}
        return cls(file, done, len(done))

    def add(self, piece: str, result: Any) -> None:
        """`result` is JSON-able."""
        self.done[piece] = result
        self._waiting.append({"piece": piece, "result": result})
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            append_lines(self.file, *self._waiting)
        self._waiting = []
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """The work is finished and its result stands elsewhere."""
        self._waiting = []
        self.file.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()


def fingerprint_of(parts: Iterable[Any]) -> str:
    """A short name for JSON-able values: equal only for equal values."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(json.dumps(part, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()
