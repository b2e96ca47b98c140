"""The masks of one object in an annotation file of SA-V, read on demand.

A file holds "masklet": for each labelled frame (every fourth of the video) a list with the
run-length encoding of each object, empty where it is not visible.
"""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.masks import area
from core.types import Rle
from data.fields import load_json, value
from data.masks.lazy import LazyMasks
from data.masks.rle_entries import entries_of

# For each frame, the encoding of each object.
Objects = list[list[Any]]
# Files that a process keeps, a few MB each.
_KEPT_FILES = 4
# Objects that a process keeps: about 50 MB at 100 frames.
_KEPT = 512


@dataclass(frozen=True, eq=False)
class MaskletMasks(LazyMasks):
    """The masks of one object.

    Attributes:
        number: Its place in the lists of the frames.
    """

    file: str
    number: int
    num_frames: int

    def __len__(self) -> int:
        return self.num_frames

    def all(self) -> tuple[Rle | None, ...]:
        masks_F = _masks(self.file, self.number, _stamp(self.file))
        if len(masks_F) != self.num_frames:
            raise ValueError(f"{self.file} has changed since the data set was read: start again")
        return masks_F


def masklet_facts(file: str) -> list[int]:
    """Return the number of labelled frames and of objects, and the height and width of the masks.

    Raises:
        ValueError: The file is missing, damaged, or holds something else.
    """
    frames = _masklet(file)
    numbers = {len(objects) for objects in frames}
    if len(numbers) != 1:
        raise ValueError(f'{file}: "masklet" lists a different number of objects in some frames')
    number = numbers.pop()
    if not number:
        raise ValueError(f'{file}: "masklet" holds no object')
    masks = [rle for rle in itertools.chain.from_iterable(frames) if rle is not None]
    entry, _ = entries_of("its first mask", masks[:1])
    if entry.problem or not entry.num_masks:
        raise ValueError(f'{file}: "masklet": {entry.problem or "no mask in any frame"}')
    return [len(frames), number, entry.height, entry.width]


@functools.lru_cache(maxsize=_KEPT)
def _masks(file: str, number: int, stamp: tuple[int, int]) -> tuple[Rle | None, ...]:
    return _object(file, _kept_masklet(file, stamp), number)


@functools.lru_cache(maxsize=_KEPT_FILES)
def _kept_masklet(file: str, stamp: tuple[int, int]) -> Objects:
    return _masklet(file)


def _masklet(file: str) -> Objects:
    frames: list[Any] = value(load_json(Path(file)), "masklet", list, file)
    if not frames:
        raise ValueError(f'{file}: "masklet" is empty: download it again')
    for i, objects in enumerate(frames):
        if not isinstance(objects, list):
            raise ValueError(f'{file}: "masklet": frame {i} is {objects!r:.60}, not a list')
    return frames


def _object(file: str, frames: Objects, number: int) -> tuple[Rle | None, ...]:
    """Return the masks of one object, None where it is empty."""
    encodings = []
    for i, objects in enumerate(frames):
        if number >= len(objects):
            raise ValueError(f'{file}: "masklet": frame {i} has no object {number}')
        encodings.append(objects[number])
    entry, counts_F = entries_of(f"object {number}", encodings)
    if entry.problem:
        raise ValueError(f'{file}: "masklet": {entry.problem}')

    masks: list[Rle | None] = []
    for counts in counts_F:
        rle: Rle | None = None
        if counts is not None:
            rle = {"size": [entry.height, entry.width], "counts": counts}
        masks.append(rle if rle is not None and area(rle) else None)
    return tuple(masks)


def _stamp(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError as error:
        raise ValueError(f"{file} is missing: download it again") from error
    return status.st_size, status.st_mtime_ns
