"""Where the masks of a data set lie: run-length encodings in one JSON file, or PNG files. A store makes `Target`s.

    RleStore       mask_dict.json                       MeViS, ReVOS, LV-VIS
    PaletteStore   <folder>/<video>/<frame>.png         Ref-YouTube-VOS, Ref-DAVIS17: the pixel's value is the object
    ObjectStore    <folder>/<...>/<frame>.png           Long-RVOS, ReasonVOS: a folder for each object

Targets are made once and shared by the expressions that name the object; no mask is decoded here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from core.types import Target
from data.masks.png_masks import PngMasks
from data.masks.rle_entries import Entry
from data.masks.rle_index import RleMasks, entries

Size = tuple[int, int]  # (height, width)
RELEASE = "take both from one release of the data set"


@dataclass(frozen=True)
class Frames:
    """The video that a target belongs to, as far as it is known: `size` is None if only the masks can say it."""

    uid: str
    names: tuple[str, ...]
    size: Size | None


class Store(Protocol):
    def target(self, frames: Frames, anno: str, where: str) -> Target:
        """The object `anno`. ValueError if the store does not hold it, or it does not fit the video."""
        ...

    def size(self, anno: str) -> Size | None:
        """That of the masks of an object of which a target was made; None if they do not say it."""
        ...


@dataclass
class RleStore:
    """A JSON file with run-length encodings, indexed when the first target is asked for."""

    file: Path
    kind: str = "mask_dict"
    _entries: dict[str, Entry] | None = None
    _failure: str = ""
    _targets: dict[str, Target] = field(default_factory=dict)

    def target(self, frames: Frames, anno: str, where: str) -> Target:
        held = self._held(anno, where)
        if anno not in held:
            raise ValueError(
                f"{where} names annotation {anno!r}, which {self.file} does not hold: {RELEASE}"
            )
        entry = held[anno]
        key = f"{self.file}: key {anno!r}"
        if entry.problem:
            raise ValueError(f"{self.file}: {entry.problem}")
        if entry.num_frames != len(frames.names):
            raise ValueError(
                f"{key} holds {entry.num_frames} masks, but {where} has {len(frames.names)} frames: one mask or null "
                f"is needed for each frame; {RELEASE}"
            )
        size = self.size(anno)
        if size is not None and frames.size is not None and size != frames.size:
            raise ValueError(
                f'{where}: masks of annotation {anno!r} in {self.file} have "size" {size[0]} x {size[1]} (height x '
                f"width), but its video or its other masks {frames.size[0]} x {frames.size[1]}: {RELEASE}"
            )
        if anno not in self._targets:
            self._targets[anno] = Target(
                anno, RleMasks(str(self.file), anno, self.kind, entry.num_frames)
            )
        return self._targets[anno]

    def size(self, anno: str) -> Size | None:
        entry = (self._entries or {}).get(anno)
        return (entry.height, entry.width) if entry and entry.num_masks else None

    def _held(self, anno: str, where: str) -> dict[str, Entry]:
        if self._failure:
            raise ValueError(self._failure)
        if self._entries is None:
            if not self.file.is_file():
                raise ValueError(
                    f"{where} names annotation {anno!r}, but {self.file} is missing: download it too"
                )
            try:
                self._entries = entries(self.file, self.kind)
            except ValueError as error:
                self._failure = str(error)  # not read again for every annotation
                raise
        return self._entries


@dataclass
class PaletteStore:
    """A PNG for each frame that holds all its objects. One that is missing is an error: the published readers open
    every one."""

    folder: Path
    _targets: dict[tuple[str, str], Target] = field(default_factory=dict)

    def target(self, frames: Frames, anno: str, where: str) -> Target:
        if not anno.isdigit() or not 0 < int(anno) < 255:
            raise ValueError(
                f'{where}: "obj_id" is {anno!r}, not the number of an object in a palette PNG (1 to 254)'
            )
        key = (frames.uid, anno)
        folder = self.folder / frames.uid
        if key not in self._targets:
            check_masks(folder, frames.names, where)
            self._targets[key] = _png_target(f"{frames.uid}/{anno}", folder, frames, int(anno))
        return self._targets[key]

    def size(self, anno: str) -> Size | None:
        return None


@dataclass
class ObjectStore:
    """A folder of PNGs for each object: `folders(video, object)` are the places where it may lie. A PNG that is missing
    is an object that is not visible (the published evaluations take it so); a folder that is missing is an error."""

    folders: Callable[[str, str], list[Path]]
    _targets: dict[tuple[str, str], Target] = field(default_factory=dict)

    def target(self, frames: Frames, anno: str, where: str) -> Target:
        key = (frames.uid, anno)
        places = self.folders(frames.uid, anno)
        if key not in self._targets:
            folder = next((place for place in places if place.is_dir()), None)
            if folder is None:
                raise ValueError(
                    f"{where} names object {anno!r}, but there is no folder {places[0]}/: {RELEASE}"
                )
            self._targets[key] = _png_target(f"{frames.uid}/{anno}", folder, frames, None)
        return self._targets[key]

    def size(self, anno: str) -> Size | None:
        return None


def check_masks(folder: Path, names: tuple[str, ...], where: str) -> None:
    """ValueError if a frame has no PNG."""
    if not folder.is_dir():
        raise ValueError(f"{where} names an object, but there is no folder {folder}/: {RELEASE}")
    present = set(os.listdir(folder))
    missing = [f"{name}.png" for name in names if f"{name}.png" not in present]
    if missing:
        more = (
            f" (as {len(missing) - 1} more are: {', '.join(missing[1:6])})"
            if len(missing) > 1
            else ""
        )
        raise ValueError(
            f'{folder / missing[0]} is missing{more}: {where}: "frames" lists it: {RELEASE}'
        )


def _png_target(uid: str, folder: Path, frames: Frames, label: int | None) -> Target:
    if frames.size is None:
        raise ValueError(
            f"{folder}: the size of its frames is not known: PNG masks need a folder of images"
        )
    return Target(
        uid, PngMasks(str(folder), frames.names, label, *frames.size, missing_is_none=label is None)
    )
