"""The masks of a data set: run-length encodings in one JSON file, or PNG files.

    RleStore       mask_dict.json                   MeViS, ReVOS, LV-VIS
    PaletteStore   <folder>/<video>/<frame>.png     Ref-YouTube-VOS, Ref-DAVIS17
    ObjectStore    <folder>/<...>/<frame>.png       Long-RVOS, ReasonVOS

In a PNG of a PaletteStore the value of a pixel is the object; an ObjectStore has a folder for each
object. A store makes `Target`s: each is made once and shared by the expressions of its object. No
mask is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from core.types import Target
from data.fields import inside
from data.frames.images import stems_in
from data.masks.png_masks import PngMasks
from data.masks.rle_entries import Entry
from data.masks.rle_index import RleMasks, entries

# (height, width)
Size = tuple[int, int]
RELEASE = "take both from one release of the data set"


@dataclass(frozen=True)
class ListedFrames:
    """The frames of a target's video.

    Attributes:
        uid: Uid of the video.
        size: None if only the masks can tell it.
    """

    uid: str
    names: tuple[str, ...]
    size: Size | None


class Store(Protocol):
    def target(self, frames: ListedFrames, anno: str, where: str) -> Target:
        """Return the object `anno`.

        Raises:
            ValueError: The store lacks it, or it does not fit the video.
        """
        ...

    def size(self, anno: str) -> Size | None:
        """Return the size of a target's masks; None if it is not known."""
        ...


@dataclass
class RleStore:
    """A JSON file with run-length encodings, indexed for the first target."""

    file: Path
    kind: str = "mask_dict"
    _entries: dict[str, Entry] | None = None
    _failure: str = ""
    _targets: dict[str, Target] = field(default_factory=dict)

    def target(self, frames: ListedFrames, anno: str, where: str) -> Target:
        held = self._held(anno, where)
        if anno not in held:
            raise ValueError(
                f"{where} names annotation {anno!r}, which {self.file} does not hold: {RELEASE}"
            )
        entry = held[anno]
        if entry.problem:
            raise ValueError(f"{self.file}: {entry.problem}")
        if entry.num_frames != len(frames.names):
            raise ValueError(
                f"{self.file}: key {anno!r} holds {entry.num_frames} masks, but {where} has "
                f"{len(frames.names)} frames: one mask or null is needed for each frame; {RELEASE}"
            )
        size = self.size(anno)
        if size is not None and frames.size is not None and size != frames.size:
            raise ValueError(
                f'{where}: masks of annotation {anno!r} in {self.file} have "size" '
                f"{size[0]} x {size[1]} (height x width), but its video or its other masks "
                f"{frames.size[0]} x {frames.size[1]}: {RELEASE}"
            )
        if anno not in self._targets:
            masks_F = RleMasks(str(self.file), anno, self.kind, entry.num_frames)
            self._targets[anno] = Target(anno, masks_F)
        return self._targets[anno]

    def size(self, anno: str) -> Size | None:
        entry = (self._entries or {}).get(anno)
        if entry is None or not entry.num_masks:
            return None
        return entry.height, entry.width

    def _held(self, anno: str, where: str) -> dict[str, Entry]:
        # A file that failed is not read again for every annotation.
        if self._failure:
            raise ValueError(self._failure)
        if self._entries is None:
            if not self.file.is_file():
                raise ValueError(
                    f"{where} names annotation {anno!r}, but {self.file} is missing: download it "
                    "too"
                )
            try:
                self._entries = entries(self.file, self.kind)
            except ValueError as error:
                self._failure = str(error)
                raise
        return self._entries


@dataclass
class PaletteStore:
    """A PNG for each frame, with all its objects.

    A missing PNG is an error, because the published readers open every one.
    """

    folder: Path
    _targets: dict[tuple[str, str], Target] = field(default_factory=dict)

    def target(self, frames: ListedFrames, anno: str, where: str) -> Target:
        if not anno.isdecimal() or not 0 < int(anno) < 255:
            raise ValueError(
                f'{where}: "obj_id" is {anno!r}, not the number of an object in a palette PNG (1 '
                "to 254)"
            )
        key = (frames.uid, anno)
        if key not in self._targets:
            folder = self.folder / frames.uid
            check_masks(folder, frames.names, where)
            self._targets[key] = _png_target(f"{frames.uid}/{anno}", folder, frames, int(anno))
        return self._targets[key]

    def size(self, anno: str) -> Size | None:
        return None


@dataclass
class ObjectStore:
    """A folder of PNGs for each object.

    A missing PNG means an invisible object, as in the published evaluations. A missing folder is an
    error.

    Attributes:
        folders: Returns the possible folders of (uid of the video, object).
    """

    folders: Callable[[str, str], list[Path]]
    _targets: dict[tuple[str, str], Target] = field(default_factory=dict)

    def target(self, frames: ListedFrames, anno: str, where: str) -> Target:
        key = (frames.uid, anno)
        if key not in self._targets:
            folder = self._folder(frames.uid, anno, where)
            self._targets[key] = _png_target(f"{frames.uid}/{anno}", folder, frames, None)
        return self._targets[key]

    def _folder(self, uid: str, anno: str, where: str) -> Path:
        inside(anno, where, "its object")
        places = self.folders(uid, anno)
        for place in places:
            if place.is_dir():
                return place
        raise ValueError(
            f"{where} names object {anno!r}, but there is no folder {places[0]}/: {RELEASE}"
        )

    def size(self, anno: str) -> Size | None:
        return None


def check_masks(folder: Path, names: tuple[str, ...], where: str) -> None:
    """Raise ValueError if a frame has no PNG."""
    if not folder.is_dir():
        raise ValueError(f"{where} names an object, but there is no folder {folder}/: {RELEASE}")
    present = stems_in(folder, ".png")
    missing = [f"{name}.png" for name in names if name not in present]
    if not missing:
        return

    more = ""
    if len(missing) > 1:
        more = f" (and {len(missing) - 1} more: {', '.join(missing[1:6])})"
    raise ValueError(
        f'{folder / missing[0]} is missing{more}: {where}: "frames" lists it: {RELEASE}'
    )


def _png_target(uid: str, folder: Path, frames: ListedFrames, label: int | None) -> Target:
    if frames.size is None:
        raise ValueError(
            f"{folder}: the size of its frames is not known: PNG masks need a folder of images"
        )
    height, width = frames.size
    missing_is_none = label is None
    masks_F = PngMasks(str(folder), frames.names, label, height, width, missing_is_none)
    return Target(uid, masks_F)
