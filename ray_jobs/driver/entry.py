"""The entry point of every job. Imports nothing slow, to report a mistake at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from ray_jobs.driver.requests import PREEMPTED, Stopped


def run_job(job: Callable[[Sequence[str]], object]) -> None:
    """Call a job with the command line; end with one line for a user's mistake.

    A ValueError becomes one line and exit code 1, and a stop that was asked for one line and the
    code of the stop. Any other error keeps its traceback.
    """
    # Until the job listens for itself, and again after it.
    signal.signal(signal.SIGTERM, _stop_at_once)
    try:
        job(sys.argv[1:])
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # A thread may still wait for an actor that is gone, and Python would wait for the thread.
        os._exit(stop.code if isinstance(stop.code, int) else PREEMPTED)
    except ValueError as error:
        # Ray raises a copy of an actor's error, with a traceback as its text.
        cause = getattr(error, "cause", error)
        sys.exit(f"error: {cause}")


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)
