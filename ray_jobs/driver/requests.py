"""What users and signals ask of a running job: stop, checkpoint, pause.

    with Requests.listening(say) as requests:
        for step in steps:
            while requests.wait_while_paused():
                save()
            with requests.patient(20.0):
                train_step(step)
            if requests.take_checkpoint():
                save()

Any thread may ask. The main thread obeys a stop at once by raising `Stopped`; inside `patient` it
finishes its work first. A stop in the middle of a call of Ray comes out of it as a plain
`SystemExit`, so code on the way out catches that; `listening` makes it `Stopped` again. Imports
nothing slow.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

# What Python calls at a signal: a function, its own or the system's default.
Handler = Callable[[int, FrameType | None], Any] | int | None

# Exit code of a stopped job that goes on when it is started again (EX_TEMPFAIL of sysexits.h).
PREEMPTED = 75


class Stopped(SystemExit):
    """The end of a job that somebody asked for. The process ends with its exit code."""

    def __init__(self, reason: str, code: int = PREEMPTED) -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        return f"stopped by {self.reason}: start the same command again to go on"


@dataclass(frozen=True)
class Stop:
    """A request to stop.

    Attributes:
        reason: Who asked, such as "SIGTERM".
        code: Exit code of the process.
        asked: Time of the request on the monotonic clock, in seconds.
    """

    reason: str
    code: int = PREEMPTED
    asked: float = field(default_factory=time.monotonic)


class Requests:
    """The open requests to one job."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        # Reentrant: a signal handler may run in the middle of any method.
        self._changed = threading.Condition(threading.RLock())
        self._stop: Stop | None = None
        self._obeyed = False
        self._paused = False
        self._checkpoint = False
        self._patience_s = 0.0
        self._is_listening = False

    @classmethod
    @contextmanager
    def listening(cls, say: Callable[[str], None] = print) -> Iterator[Requests]:
        """Turn SIGTERM and SIGINT into requests to stop while the block runs.

        Without effect on signals outside the main thread. To be entered after `ray.init`, which
        sets a handler of its own.

        Raises:
            Stopped: The block ended by a stop.
        """
        requests = cls(say)
        if threading.current_thread() is not threading.main_thread():
            yield requests
            return

        own: dict[signal.Signals, Handler] = {
            signal.SIGTERM: requests._on_stop,
            signal.SIGINT: requests._on_stop,
            signal.SIGALRM: requests._on_alarm,
        }
        before: dict[signal.Signals, Handler] = {}
        for number, handler in own.items():
            before[number] = signal.signal(number, handler)
        requests._is_listening = True
        try:
            yield requests
        except SystemExit as end:
            raise requests._as_stopped(end) from None
        finally:
            requests._is_listening = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask_stop(self, reason: str, code: int = PREEMPTED) -> None:
        """Ask the job to end. The first request counts."""
        with self._changed:
            if self._stop is not None:
                return
            self._stop = Stop(reason, code)
            self._changed.notify_all()
        if self._is_listening:
            # Only the main thread can raise, and it may wait in Ray for minutes.
            main = threading.main_thread().ident
            assert main is not None, "the main thread runs"
            signal.pthread_kill(main, signal.SIGALRM)

    def ask_checkpoint(self) -> None:
        """Ask for a checkpoint after the step under way; while the job waits, at once."""
        with self._changed:
            self._checkpoint = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Ask the job to wait after the step under way."""
        self._paused = True

    def resume(self) -> None:
        """Let a paused job go on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    @property
    def stop(self) -> Stop | None:
        """The request to stop, if there is one."""
        return self._stop

    @property
    def paused(self) -> bool:
        """Whether the job is to wait."""
        return self._paused

    def take_checkpoint(self) -> bool:
        """Return whether a checkpoint was asked for since the last call."""
        asked = self._checkpoint
        self._checkpoint = False
        return asked

    def wait_while_paused(self) -> bool:
        """Wait until nobody wants the job to pause, or somebody wants a checkpoint meanwhile.

        Returns:
            Whether it is still paused, and a checkpoint is to be written; then call it again.

        Raises:
            Stopped: A stop was asked for.
        """
        self.obey()
        with self._changed:
            while self._paused and not self._checkpoint and self._stop is None:
                self._changed.wait()
        self.obey()
        return self._paused and self.take_checkpoint()

    @contextmanager
    def patient(self, seconds: float = math.inf) -> Iterator[None]:
        """Let a stop wait for the end of the block, for at most so many seconds.

        Raises:
            Stopped: At the end of the block, or when the time is over.
        """
        before = self._patience_s
        self._patience_s = seconds
        try:
            yield
        finally:
            self._patience_s = before
        self.obey()

    def be_patient(self) -> None:
        """From here on let a stop wait for the end of the `patient` block, whatever the time."""
        self._patience_s = math.inf

    def obey(self) -> None:
        """Raise if a stop was asked for and its patience is over.

        Raises:
            Stopped: The job ends.
        """
        stop = self._stop
        # Raised once: the way out, with its last checkpoint, must not be disturbed.
        if stop is None or self._obeyed:
            return
        left = stop.asked + self._patience_s - time.monotonic()
        if left <= 0:
            self._obeyed = True
            raise Stopped(stop.reason, stop.code)
        if self._is_listening and math.isfinite(left):
            signal.setitimer(signal.ITIMER_REAL, left)

    def _as_stopped(self, end: SystemExit) -> SystemExit:
        """Return the stop that an exit stands for; the exit itself if nobody has asked."""
        if isinstance(end, Stopped) or self._stop is None:
            return end
        return Stopped(self._stop.reason, self._stop.code)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._stop is not None:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        if self._stop is None:
            self._say(f"{name}: ends after the work under way")
        self.ask_stop(name)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self.obey()
