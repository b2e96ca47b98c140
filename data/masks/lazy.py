"""Masks that stay on disk until needed: the base of `RleMasks`, `PngMasks` and `PolygonMask`.

`PartMasks` places the masks of a part of a video.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class PartMasks(LazyMasks):
    """The masks of a part of a video, and None before and after it.

    Attributes:
        part: The masks of the frames from `start` on.
        num_frames: The number of frames of the video.
    """

    part: LazyMasks
    start: int
    num_frames: int

    def __len__(self) -> int:
        return self.num_frames

    def all(self) -> tuple[Rle | None, ...]:
        before: tuple[Rle | None, ...] = (None,) * self.start
        after = (None,) * (self.num_frames - self.start - len(self.part))
        return before + self.part.all() + after
