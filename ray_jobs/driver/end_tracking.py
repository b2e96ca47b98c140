"""Tell MLflow how a job ended whose process could not do so itself.

    python -m ray_jobs.driver.end_tracking runs/NAME FAILED

The supervisor calls it, in a process of its own that may take its time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from configs.load import load as load_config
from ray_jobs.driver.tracking import writer_of

# MLflow may be away; the outbox keeps the status, and the next run of the experiment tells it.
SECONDS = 60.0


def end_tracking(folder: Path, status: str) -> bool:
    """Send the rest of a run's outbox and its status; return True if MLflow has all of it."""
    cfg = load_config([str(folder / "config.yaml")])
    return writer_of(cfg, "", folder).close(SECONDS, status)


if __name__ == "__main__":
    end_tracking(Path(sys.argv[1]), sys.argv[2])
