"""Evaluations beside training: a thread measures the policies of checkpoints while steps go on.

    beside = Beside(evaluator, say)
    beside.want(4, checkpoints / "step_4")
    for done in beside.take():
        ...
    beside.finish()

One evaluation runs at a time, and one waits behind it, always the newest. No call waits for one but
`finish`. An evaluation that fails costs a line, and is tried once more; it never ends a training.
What the evaluator does is in `ray_jobs.driver.watching`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ray_jobs.driver.results import Evaluation

# Attempts at one evaluation.
ATTEMPTS = 2
# Seconds between two looks of `finish`.
LOOK_S = 1.0
# Seconds that the end of a run waits for the thread; it is let go then.
LEAVE_S = 5.0


class Evaluator(Protocol):
    """Measures a policy, with actors of its own."""

    def measure(self, step: int, folder: Path) -> Evaluation:
        """Measure the policy of a checkpoint; in the thread."""

    def close(self) -> None:
        """End all actors, also of an evaluation under way; from another thread."""


@dataclass(frozen=True)
class Wanted:
    """A checkpoint to evaluate."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Done:
    """An evaluation that has ended.

    Attributes:
        evaluation: None if it failed.
    """

    step: int
    folder: Path
    evaluation: Evaluation | None


class Beside:
    """The evaluations beside one training."""

    def __init__(self, evaluator: Evaluator, say: Callable[[str], None]) -> None:
        """Start nothing yet.

        Args:
            say: Takes a line for the user; any thread may call it.
        """
        self._evaluator = evaluator
        self._say = say
        # All below is guarded by the condition.
        self._changed = threading.Condition()
        self._under_way: Wanted | None = None
        self._waiting: Wanted | None = None
        self._done: list[Done] = []
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def want(self, step: int, folder: Path) -> None:
        """Evaluate a checkpoint, at once or after the one under way; an older one waits no more."""
        with self._changed:
            if self._is_closed or step in self._steps():
                return
            if self._under_way is not None:
                if self._waiting is not None:
                    self._say(
                        f"step {self._waiting.step} is not evaluated: that of step "
                        f"{self._under_way.step} still runs, and step {step} is newer"
                    )
                self._waiting = Wanted(step, folder)
                return
            self._under_way = Wanted(step, folder)
            # It must not keep a process alive that ends.
            self._thread = threading.Thread(target=self._work, name="beside", daemon=True)
            self._thread.start()

    def take(self) -> list[Done]:
        """Return the evaluations that have ended since the last call, in the order of the steps."""
        with self._changed:
            done = self._done
            self._done = []
            return done

    @property
    def steps(self) -> list[int]:
        """The steps under way or waiting, or whose result nobody has taken."""
        with self._changed:
            return self._steps()

    def finish(self) -> None:
        """Wait until none is under way."""
        with self._changed:
            while self._under_way is not None:
                # A signal is handled between two looks.
                self._changed.wait(LOOK_S)

    def close(self) -> None:
        """Give up what is under way or waits, with a line; nothing is taken any more."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            given_up = [each for each in (self._under_way, self._waiting) if each is not None]
            self._waiting = None
        for wanted in given_up:
            self._say(f"the evaluation of step {wanted.step} is given up; the next start does it")
        self._evaluator.close()
        if self._thread is not None:
            self._thread.join(LEAVE_S)

    def _steps(self) -> list[int]:
        pending = [each.step for each in (self._under_way, self._waiting) if each is not None]
        return [done.step for done in self._done] + pending

    def _work(self) -> None:
        """Work through what is wanted; in the thread."""
        wanted = self._under_way
        while wanted is not None:
            evaluation = self._measured(wanted)
            with self._changed:
                self._done.append(Done(wanted.step, wanted.folder, evaluation))
                wanted = self._waiting
                self._waiting = None
                self._under_way = wanted
                self._changed.notify_all()

    def _measured(self, wanted: Wanted) -> Evaluation | None:
        """Return an evaluation; None if it failed, after a line about it."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._evaluator.measure(wanted.step, wanted.folder)
            except BaseException as error:
                # The thread's boundary: the training goes on without this figure.
                if self._is_closed:
                    return None
                then = "once more" if attempt < ATTEMPTS else "the training goes on without it"
                lines = str(error).strip().splitlines() or [type(error).__name__]
                self._say(f"the evaluation of step {wanted.step} failed ({lines[-1]}): {then}")
        return None
