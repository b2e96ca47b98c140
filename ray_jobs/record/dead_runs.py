"""The status in MLflow of runs whose process died: nobody was left to send it.

The next run of the experiment does it, of any name: a run that MLflow believes RUNNING is ended if
its folder is here and has no owner any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_jobs.record.outbox import last_status, name_of
from ray_jobs.record.owner import owner_of

# Tags of an MLflow run: the name of its outbox, and its run folder.
TAG = "rayvos_outbox"
FOLDER = "rayvos_folder"

# Runs to look at; more do not die at once.
MOST = 200


def end_dead_runs(client: Any, experiment: str, own: str) -> None:
    """Give the runs of an experiment whose process is gone their status.

    Args:
        experiment: Its number.
        own: The MLflow run of this process.
    """
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=MOST)
    for run in running:
        tags = run.data.tags
        if run.info.run_id == own or FOLDER not in tags:
            continue
        status = status_of_dead(Path(tags[FOLDER]), tags.get(TAG, ""))
        if status:
            client.set_terminated(run.info.run_id, status=status)


def status_of_dead(path: Path, outbox: str) -> str:
    """Return the status of a run whose process is gone; "" if it lives, or if that is unknown.

    Args:
        path: The folder in which it ran.
        outbox: The name of its outbox: another machine may have another run at this path.
    """
    for folder in _places(path):
        if not outbox or name_of(folder) != outbox:
            continue
        # A folder that was set aside for a fresh start has no process.
        if folder == path and owner_of(folder) is not None:
            return ""
        return last_status(folder) or "FAILED"
    return ""


def _places(path: Path) -> Iterator[Path]:
    """Yield a run folder, and those that were set aside for it."""
    yield path
    yield from path.parent.glob(f"{path.name}.*")
