"""The entry point of every job. Imports nothing slow, to report a mistake at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

from core.printable import printable
from ray_jobs.driver.requests import PREEMPTED, Stopped
from ray_jobs.driver.supervisor import CRASHED, Hopeless


def run_job(job: Callable[[Sequence[str]], object]) -> None:
    """Call a job with the command line and end the process: exit codes as in `supervisor`.

    A user's mistake, an error that another start would meet again, and a stop that was asked for
    become one line. Any other error keeps its traceback.
    """
    early: list[Stopped] = []

    def stop_at_once(number: int, frame: FrameType | None) -> None:
        early.append(Stopped(signal.Signals(number).name))
        raise early[0]

    # Until the job listens for itself, and again after it.
    signal.signal(signal.SIGTERM, stop_at_once)
    try:
        job(sys.argv[1:])
    except (ValueError, Hopeless) as error:
        # Ray raises a copy of an actor's error, with a traceback as its text.
        cause = getattr(error, "cause", error)
        sys.exit(f"error: {printable(cause)}")
    except SystemExit as end:
        # Ray makes a plain exit of a stop in the middle of its calls.
        stop = end if isinstance(end, Stopped) or not early else early[0]
        if not isinstance(stop, Stopped):
            raise
        print(stop, file=sys.stderr)
        _end(stop.code if isinstance(stop.code, int) else PREEMPTED)
    except Exception:
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        _end(CRASHED)
    # The job has closed what it opened. Python would take seconds to take its modules apart.
    atexit._run_exitfuncs()
    _end(0)


def _end(code: int) -> None:
    """End the process without its threads: one may wait for an actor that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
