"""How every job starts from a command line. Imports nothing that is slow, so that a mistake is told at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def run_job(job: Callable[[Sequence[str]], object]) -> None:
    """The `main` of every job: a user's mistake is one clear line and exit code 1; all else keeps its traceback."""
    try:
        job(sys.argv[1:])
    except ValueError as error:  # of an actor: Ray's copy of it, whose text is a traceback
        sys.exit(f"error: {getattr(error, 'cause', error)}")
