"""Checkpoints beside training: the ranks copy their state, and write it while the next steps run.

One checkpoint at a time is on its way. It is renamed to `step_N` when all of its files are whole,
so nobody ever sees a half-written one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.learner_pool import LearnerPool
from actors.save_marks import is_written, take_marks
from ray_jobs.record import checkpoint

# Seconds between looks at the marks of the ranks, and between looks at the ranks themselves.
LOOK_S = 0.1
CHECK_S = 2.0


@dataclass
class Writing:
    """A checkpoint on its way.

    Attributes:
        done: Its folder, in the end.
        then: Called with the folder in the main thread, once it is whole.
        abandoned: Set when nobody writes it any more.
    """

    done: Future[Path]
    then: Callable[[Path], None]
    abandoned: threading.Event


@dataclass
class Saving:
    """The checkpoints of one run.

    Attributes:
        checkpoints: Their folder.
        say: Told of a checkpoint that could not be written.
        writing: The one on its way.
    """

    checkpoints: Path
    say: Callable[[str], None]
    writing: Writing | None = None
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))

    def start(
        self,
        learner: LearnerPool,
        step: int,
        state: dict[str, Any],
        then: Callable[[Path], None],
    ) -> None:
        """Start a checkpoint of the present state, after the one on its way.

        Args:
            then: called with its folder by a later `settle` or `finish`.

        Raises:
            LearnerLost: A rank died.
        """
        self.finish(learner)
        try:
            fresh = checkpoint.begin(self.checkpoints, step)
        except OSError as error:
            self._say_failed(error)
            return
        with checkpoint.removed_on_error(fresh, step):
            learner.save(fresh, beside=True)
        abandoned = threading.Event()
        done = self.thread.submit(_finish, fresh, step, state, len(learner.ranks), abandoned)
        self.writing = Writing(done, then, abandoned)

    def settle(self) -> None:
        """Take note of a checkpoint that is whole by now, or of one that failed."""
        if self.writing is None or not self.writing.done.done():
            return
        writing = self.writing
        self.writing = None
        try:
            folder = writing.done.result()
        except RuntimeError as error:
            # The death of its ranks is said by whoever starts them anew.
            if not writing.abandoned.is_set():
                self._say_failed(error)
            return
        writing.then(folder)

    def finish(self, learner: LearnerPool) -> None:
        """Wait for the checkpoint on its way.

        Raises:
            LearnerLost: A rank died.
        """
        while self.writing is not None:
            wait([self.writing.done], timeout=CHECK_S)
            if not self.writing.done.done():
                learner.check()
            self.settle()

    def abandon(self) -> None:
        """Give up a checkpoint whose ranks are gone, unless all of its files are there."""
        if self.writing is None:
            return
        self.writing.abandoned.set()
        wait([self.writing.done])
        self.settle()

    def _say_failed(self, error: Exception) -> None:
        self.say(f"{error}; tried again at the next one")


def _finish(
    fresh: Path, step: int, state: dict[str, Any], ranks: int, abandoned: threading.Event
) -> Path:
    """Wait for the files of all ranks; return the folder of the whole checkpoint."""
    with checkpoint.removed_on_error(fresh, step):
        while not is_written(fresh, ranks):
            if abandoned.wait(LOOK_S):
                break
        if not is_written(fresh, ranks):
            raise RuntimeError("its ranks are gone")
        take_marks(fresh, ranks)
    return checkpoint.finish(fresh, step, state)
