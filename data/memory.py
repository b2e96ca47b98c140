"""A bound on the memory that looking at other people's files may take."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a message says about a MemoryError.
TOO_MUCH = "it needs more memory than prepare.memory_mb allows: raise it, or take the file out"


@contextmanager
def bounded(megabytes: int) -> Iterator[None]:
    """Let the block take this much memory beside what the process has; more is a MemoryError.

    Processes that the block starts have the same bound. Without Linux there is none.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound(megabytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def bound(megabytes: int) -> None:
    """Let this process take this much memory beside what it has, from now on."""
    held = _held()
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = held + (megabytes << 20)
    for limit in (before, most):
        if limit != resource.RLIM_INFINITY:
            allowed = min(allowed, limit)
    if held:
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))


def _held() -> int:
    """Return the bytes of data that the process has reserved; 0 where they are not told."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
