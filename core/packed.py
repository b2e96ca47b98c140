"""Many numbers as one piece of memory.

A trajectory has thousands of token ids and log-probs. As objects of Python each would be made anew
in every process that a trajectory passes through; here all of them travel as one string of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

N = TypeVar("N", int, float)

# Codes of `struct`: token ids, unsigned 32 bits, and log-probs, as exact as numbers of Python.
IDS = "I"
LOGPROBS = "d"
WIDTHS = {code: struct.calcsize(code) for code in (IDS, LOGPROBS)}


class Numbers(Sequence[N]):
    """A sequence of numbers that never changes; equal to a tuple of the same numbers.

    Attributes:
        code: their type in `struct`, one of those above.
        data: their bytes.
    """

    __slots__ = ("code", "data")

    def __init__(self, code: str, data: bytes) -> None:
        self.code = code
        self.data = data

    @property
    def view(self) -> Any:
        """A memoryview of the numbers, one by one."""
        return memoryview(self.data).cast(self.code)  # type: ignore[call-overload]

    @property
    def array(self) -> np.ndarray:
        """The numbers, for reading only."""
        return np.frombuffer(self.data, dtype=self.code)

    def __len__(self) -> int:
        return len(self.data) // WIDTHS[self.code]

    def __iter__(self) -> Iterator[N]:
        return iter(self.tolist())

    def __getitem__(self, key: Any) -> Any:
        found = self.view[key]
        return tuple(found) if isinstance(key, slice) else found

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Numbers) and self.code == other.code == IDS:
            return self.data == other.data
        if isinstance(other, (Numbers, tuple)):
            return tuple(self) == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return Numbers, (self.code, self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array.astype(dtype or self.code)

    def tolist(self) -> list[N]:
        """Return them as numbers of Python."""
        numbers: list[N] = self.view.tolist()
        return numbers


def packed(code: str, values: Sequence[N]) -> Numbers[N]:
    """Return numbers in one piece of memory; those that are in one already stay as they are.

    Raises:
        ValueError: one of them is no number, or no token id.
    """
    if isinstance(values, Numbers):
        return values
    try:
        return Numbers(code, struct.pack(f"={len(values)}{code}", *values))
    except struct.error as error:
        raise ValueError(f"{error}: token ids are whole, below 2**32") from error


def array_of(values: Sequence[N]) -> np.ndarray:
    """Return numbers as an array; packed ones are not copied."""
    return values.array if isinstance(values, Numbers) else np.asarray(values)
