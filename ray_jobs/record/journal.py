"""Results of a long job, one line for each finished piece, so that a killed job continues.

    with Journal.open(file, fingerprint) as journal:
        for uid in pieces:
            if uid not in journal.done:
                journal.add(uid, work(uid))

The first line names the work by its fingerprint; under another one the journal starts empty. Lines
reach the disk about once a second, so a kill costs that much work.
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
    """The finished pieces of one job.

    Attributes:
        done: result of each finished piece, earlier runs included.
        found: number of pieces finished before this run.
    """

    file: Path
    done: dict[str, Any] = field(default_factory=dict)
    found: int = 0
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, file: Path, fingerprint: str) -> Journal:
        """Continue a journal of the same fingerprint, or replace a foreign or unreadable one."""
        file.parent.mkdir(parents=True, exist_ok=True)
        repair_lines(file)
        try:
            lines = read_lines(file)
        except ValueError:
            # Not JSON, so not a journal.
            lines = []
        if not lines or lines[0].get("fingerprint") != fingerprint:
            file.unlink(missing_ok=True)
            append_lines(file, {"fingerprint": fingerprint})
            return cls(file)
        done = {line["piece"]: line["result"] for line in lines[1:]}
        return cls(file, done, len(done))

    def add(self, piece: str, result: Any) -> None:
        """Record the result of a piece; it must be convertible to JSON."""
        self.done[piece] = result
        self._waiting.append({"piece": piece, "result": result})
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Bring every result to the disk."""
        if self._waiting:
            append_lines(self.file, *self._waiting)
        self._waiting = []
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """Delete the journal: the work is finished and its result is stored elsewhere."""
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
    """Return a short name for values convertible to JSON, equal only for equal values."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        text = json.dumps(part, ensure_ascii=True)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
