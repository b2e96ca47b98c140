"""What this process is doing, and its last sign of progress.

Whoever calls the work opens it with `working`, and the work inside calls `tick` as it goes on. The
watch over a job's actors (`cluster.watch`) asks for the `Pulse`, and tells a hang by it. On request
all works of a while are kept as spans, for the profile of a step.
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
class Span:
    """A work from its beginning to its end.

    Attributes:
        began: seconds since 1970.
        seconds: how long it took; until now, if it is under way.
    """

    name: str
    began: float
    seconds: float


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
        # Works that have ended, with their ends, while spans are kept; else None.
        self.ended: list[tuple[_Work, float]] | None = None


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
    work = _Work(name, time.monotonic(), patience_s)
    _process.works[number] = work
    try:
        yield
    finally:
        del _process.works[number]
        tick()
        ended = _process.ended
        if ended is not None:
            ended.append((work, _process.last_tick))


def keep_spans() -> None:
    """Keep the works of this process from now on, until `take_spans`."""
    _process.ended = []


def take_spans() -> list[Span]:
    """Return the works since `keep_spans`, those under way included; keep no more."""
    now = time.monotonic()
    ended = _process.ended or []
    _process.ended = None
    ended += [(work, now) for work in list(_process.works.values())]
    # Clocks of two processes have only the calendar in common.
    since_1970 = time.time() - now
    spans = []
    for work, end in ended:
        spans.append(Span(work.name, work.since + since_1970, end - work.since))
    return spans


def pulse() -> Pulse:
    """Return what this process is doing."""
    works = list(_process.works.values())
    if not works:
        return Pulse()
    now = time.monotonic()
    patience_s = max(work.patience_s for work in works)
    return Pulse(works[0].name, now - works[0].since, now - _process.last_tick, patience_s)
