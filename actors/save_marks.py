"""Marks of ranks in a folder that they fill beside training: `.rank_<r>.written`.

A mark is empty, or holds what went wrong. Imports nothing slow: the driver waits for the marks.
"""

from __future__ import annotations

from pathlib import Path


def mark_of(folder: Path, rank: int) -> Path:
    """Return the file that says: this rank has written all of its files."""
    return folder / f".rank_{rank}.written"


def is_written(folder: Path, ranks: int) -> bool:
    """Return whether all ranks are done, well or not."""
    return all(mark_of(folder, rank).exists() for rank in range(ranks))


def take_marks(folder: Path, ranks: int) -> None:
    """Remove the marks of all ranks.

    Raises:
        RuntimeError: A rank could not write its files.
    """
    problems = []
    for rank in range(ranks):
        mark = mark_of(folder, rank)
        problems.append(mark.read_text())
        mark.unlink()
    for problem in problems:
        if problem:
            raise RuntimeError(problem)
