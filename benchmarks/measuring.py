"""The common parts of the benchmarks: arguments, CPU time, and the spread of measurements."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser; its help is the benchmark's docstring, line by line."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of all threads of this process; other processes do not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return "median (smallest to largest)", each in the given format."""
    median = statistics.median(values)
    return f"{median:{form}} ({min(values):{form}} to {max(values):{form}})"
