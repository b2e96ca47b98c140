"""Wall time of the stages of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from core.pulse import working
from ray_jobs.record.progress import Progress


class StageTimer:
    """Shows the running stage and sums the seconds of each.

    Overlapping work is counted in the stage of the waiting driver.
    """

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        with self._progress.phase(name), working(name):
            yield
        spent = time.monotonic() - began
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
