"""What this process is doing, and its last sign of progress.

Whoever calls the work opens it with `working`, and the work inside calls `tick` as it goes on. The
watch over a job's actors (`cluster.watch`) asks for the `Pulse`, and tells a hang by it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Pulse:
    """The state of a process at one moment.

    Attributes:
        work: the oldest work under way; empty if there is none.
        seconds: how long it has been under way.
        quiet_s: seconds since the last sign of progress.
        patience_s: seconds of silence beyond the usual ones that are no reason to worry.
    """

    work: str = ""
    seconds: float = 0.0
    quiet_s: float = 0.0
    patience_s: float = 0.0


@dataclass(frozen=True)
class _Work:
    name: str
    since: float
    patience_s: float


class _Process:
    """The works under way in this process, oldest first."""

    def __init__(self) -> None:
        self.works: dict[int, _Work] = {}
        self.numbers = itertools.count()
        self.last_tick = time.monotonic()


_process = _Process()


def tick() -> None:
    """Show that the work goes on. Costs nothing: call it for every row, frame or token step."""
    _process.last_tick = time.monotonic()


@contextmanager
def working(name: str, patience_s: float = 0.0) -> Iterator[None]:
    """Be at work. Works may overlap.

    Args:
        patience_s: seconds that it may stay without a tick beyond the usual ones, such as `inf`
            for the loading of a model.
    """
    tick()
    number = next(_process.numbers)
    _process.works[number] = _Work(name, time.monotonic(), patience_s)
    try:
        yield
    finally:
        del _process.works[number]
        tick()


def pulse() -> Pulse:
    """Return what this process is doing."""
    works = list(_process.works.values())
    if not works:
        return Pulse()
    now = time.monotonic()
    patience_s = max(work.patience_s for work in works)
    return Pulse(works[0].name, now - works[0].since, now - _process.last_tick, patience_s)
