"""The entry point of every job. Imports nothing slow, to report a mistake at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def run_job(job: Callable[[Sequence[str]], object]) -> None:
    """Call a job with the command line; end with one line for a user's mistake.

    A ValueError becomes one line and exit code 1. Any other error keeps its traceback.
    """
    try:
        job(sys.argv[1:])
    except ValueError as error:
        # Ray raises a copy of an actor's error, with a traceback as its text.
        cause = getattr(error, "cause", error)
        sys.exit(f"error: {cause}")
