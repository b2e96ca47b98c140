"""The outbox of a run's tracker, `mlflow_outbox.jsonl`: everything that MLflow shall get, in order.

A line is a record of one kind, known by its first field. The first record names the outbox, and
the name is a tag of the MLflow run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

OUTBOX = "mlflow_outbox.jsonl"

# MLflow's words for the end of a run.
STATUSES = ("FINISHED", "FAILED", "KILLED")

# The fields of a record by the first of them, each with its type.
FIELDS: dict[str, dict[str, type]] = {
    "outbox": {"outbox": str},
    "metrics": {"metrics": dict, "step": int, "time_ms": int},
    "tags": {"tags": dict},
    "artifact": {"artifact": str, "to": str},
    "table": {"table": str, "to": str},
    "data": {"data": dict},
    "model": {"model": str, "step": int},
    "episode": {"episode": dict, "time_ms": int},
    "status": {"status": str},
}

# More than any status takes.
_TAIL = 200


def record_of(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    wanted: list[tuple[str, type]] = []
    for key, kinds in FIELDS.items():
        if key in record:
            wanted += kinds.items()
    is_record = all(isinstance(record.get(key), kind) for key, kind in wanted)
    return record if is_record and record.get("status", "FAILED") in STATUSES else None


def name_of(folder: Path) -> str:
    """Return the name of the outbox in a run folder; "" without one."""
    try:
        with (folder / OUTBOX).open("rb") as outbox:
            for line in outbox:
                record = record_of(line) or {}
                if "outbox" in record:
                    return str(record["outbox"])
    except OSError:
        return ""
    return ""


def last_status(folder: Path) -> str:
    """Return the status at the end of an outbox; "" if its process has not told any."""
    try:
        with (folder / OUTBOX).open("rb") as outbox:
            size = outbox.seek(0, os.SEEK_END)
            outbox.seek(max(0, size - _TAIL))
            lines = outbox.read().splitlines()
    except OSError:
        return ""
    record = record_of(lines[-1]) if lines else None
    return str((record or {}).get("status", ""))
