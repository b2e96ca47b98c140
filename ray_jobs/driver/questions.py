"""The words that a running job understands (`python -m ray_jobs.control`). Imports nothing slow."""

from __future__ import annotations

from collections.abc import Sequence

# What a running job can be asked, beside workers=N.
WORDS = ("status", "pause", "resume", "checkpoint", "stop")


def questions_of(words: Sequence[str]) -> list[str]:
    """Return the questions of a command line.

    Raises:
        ValueError: none, an unknown word or a wrong number.
    """
    if not words:
        raise ValueError(f"what should the run do? Give workers=N, {', '.join(WORDS)}")
    for word in words:
        key, equals, value = word.partition("=")
        if key == "workers" and equals:
            number_of(value)
        elif word not in WORDS:
            raise ValueError(f"{word}: unknown; choose from workers=N, {', '.join(WORDS)}")
    return list(words)


def number_of(text: str) -> int:
    """Return the number of workers=N. Raises ValueError for anything else."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"workers={text}: expected a whole number of at least 1")
    return int(text)
