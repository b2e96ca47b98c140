"""The peak memory of a test's own process."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Return the largest memory that this process has had since it began.

    Not `ru_maxrss`, which begins with the memory of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) << 10
    raise OSError("/proc/self/status has no VmHWM: the peak is known on Linux only")
