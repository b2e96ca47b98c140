"""Masks that stay on disk until needed: the base of `RleMasks`, `PngMasks` and `PolygonMask`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from core.types import Rle


class LazyMasks(Sequence["Rle | None"]):
    """One mask or None for each frame, equal to any sequence of the same masks.

    It pickles as the place of the masks. Reading raises a ValueError with the name of the file if
    the file is gone, changed or damaged.
    """

    @abstractmethod
    def all(self) -> tuple[Rle | None, ...]:
        """Return every mask, from disk or from the cache of this process."""

    @overload
    def __getitem__(self, index: int) -> Rle | None: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Rle | None, ...]: ...
    def __getitem__(self, index: int | slice) -> Rle | tuple[Rle | None, ...] | None:
        return self.all()[index]

    def __iter__(self) -> Iterator[Rle | None]:
        return iter(self.all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.all() == tuple(other)

    __hash__ = None  # type: ignore[assignment]
