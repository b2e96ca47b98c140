"""The logs of Ray's processes that an error is about: where they are, and how they end.

Ray and vLLM often tell the cause of an error in the log of a process alone ("See root cause
above"), and drivers do not repeat these logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# As Ray's messages name a process.
_PID = re.compile(r"\bpid[=:]\s*(\d+)")

# Lines of a log, the bytes that are read for them, and logs of one error.
LINES = 20
TAIL = 64 << 10
MOST = 2


def add_logs(error: BaseException) -> None:
    """Add the ends of the logs to an error's traceback, if they are on this machine."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return
    # A log that cannot be read must not hide the error.
    with suppress(OSError):
        for note in log_notes(error, Path(node.get_session_dir_path()) / "logs"):
            error.add_note(note)


def log_notes(error: BaseException, folder: Path) -> list[str]:
    """Return a note for the log of each process that an error or its causes name."""
    notes = []
    for pid in dict.fromkeys(_pids(error)):
        for file in sorted(folder.glob(f"worker-*-{pid}.err")):
            lines = _last_lines(file)
            if lines:
                notes.append("\n".join([f"log of process {pid}: {file}", *lines]))
    return notes[:MOST]


def _pids(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield from _PID.findall(str(error))
        error = error.__cause__ or error.__context__


def _last_lines(file: Path) -> list[str]:
    """Return the last lines with text in them."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL))
        text = opened.read().decode(errors="replace")
    lines = [f"  {line}" for line in text.splitlines() if line.strip()]
    return lines[-LINES:]
