"""Python's garbage collector, kept away from objects that live as long as their process."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """Import large libraries in three quarters of the time: the collector would find nothing there.

    It looks at all objects again and again while their number grows, and at none of them later.
    """
    gc.disable()
    try:
        yield
    finally:
        _freeze()
        gc.enable()


def spare_collector() -> None:
    """Keep the collector from looking again at what lives by now."""
    gc.collect()
    _freeze()


def _freeze() -> None:
    gc.freeze()
    # Otherwise libraries report all of it as leaked when the process ends.
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)
