"""The faults of a trial: which ones are drawn, at which moments, and what came of them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.chaos.faults import FAULTS
from tests.chaos.trial import Trial

# Longest delay of a fault after the end of its step: about a step of the tiny default.
DELAY_S = 5.0


@dataclass(frozen=True)
class Planned:
    """A fault to come.

    Attributes:
        kind: One of `FAULTS`.
        step: It waits until this step is on record; 0 is the start.
        delay_s: And for these seconds.
    """

    kind: str
    step: int
    delay_s: float


@dataclass(frozen=True)
class Inflicted:
    """A fault that happened.

    Attributes:
        victim: What it hurt: a pid, if it was one process.
    """

    kind: str
    victim: str


def plan(
    rng: random.Random, steps: int, faults: int, kinds: Sequence[str], first: int = 0
) -> list[Planned]:
    """Draw faults: every kind in turn, at random moments of the run, which must not end before.

    Args:
        first: None comes before this step is on record.
    """
    last = max(first + 1, steps * 2 // 3)
    moments = sorted(rng.randrange(first, last) for _ in range(faults))
    drawn: list[str] = []
    while len(drawn) < faults:
        drawn += rng.sample(list(kinds), len(kinds))
    planned = []
    for kind, step in zip(drawn, moments, strict=False):
        planned.append(Planned(kind, step, rng.uniform(0, DELAY_S)))
    return planned


@contextmanager
def inflicting(
    trial: Trial, planned: Sequence[Planned], kinds: Sequence[str]
) -> Iterator[list[Inflicted]]:
    """Let the faults happen to the run that the block waits for; yield those that did."""
    inflicted: list[Inflicted] = []
    trial.ended.clear()
    thread = threading.Thread(target=_inflict, args=(trial, planned, kinds, inflicted))
    thread.start()
    try:
        yield inflicted
    finally:
        trial.ended.set()
        thread.join()


def _inflict(
    trial: Trial, planned: Sequence[Planned], kinds: Sequence[str], inflicted: list[Inflicted]
) -> None:
    began = time.monotonic()
    for fault in planned:
        while trial.steps() < fault.step and not trial.ended.is_set():
            trial.ended.wait(0.2)
        trial.ended.wait(fault.delay_s)
        kind = fault.kind
        victim = ""
        while not victim:
            if trial.ended.is_set():
                return
            victim = FAULTS[kind](trial)
            at_s = time.monotonic() - began
            told = victim or "found nobody, another one is drawn"
            print(f"{at_s:6.0f} s  step {trial.steps():3}  {kind}: {told}", flush=True)
            if victim:
                inflicted.append(Inflicted(kind, victim))
            kind = trial.rng.choice(list(kinds))
