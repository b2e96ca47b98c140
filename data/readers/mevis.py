"""Reads data sets in the format of MeViS (v1 and v2: same folders, other counts) and LV-VIS in VISA's conversion.

    <root>/<split>/meta_expressions.json   {"videos": {video: {"frames": [name, ..], "expressions": {id: {"exp", ..}}}}}
    <root>/<split>/mask_dict.json          {annotation id: [COCO run-length encoding or null, one for each frame]}
    <root>/<split>/JPEGImages/<video>/     or Videos/<video>.mp4

Splits of MeViS: train, valid_u, valid (no ground truth). An expression names its objects in "anno_id": none, one or
several; without it, the ground truth is not public (then mask_dict.json may be missing too). LV-VIS names categories
with "_" for a space. Expressions that name the same object share its masks. Whatever is wrong with the files is one
ValueError with file, key and remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.types import Sample, Target
from data.masks.stores import Frames, RleStore
from data.readers.expressions import Family, anno_ids, find_images, frame_names, index, read_videos
from data.readers.fields import Faults, load_json, value

__all__ = ["index", "read", "read_lvvis", "video_objects"]
EXPRESSIONS = "meta_expressions.json"
MASKS = "mask_dict.json"


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions of a split, in the order of the file; `uid` is "<video>/<expression id>"."""
    family = _family(Path(root), split)
    return read_videos(family, _videos(family.file), faults or Faults())


def read_lvvis(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """The same of LV-VIS: "_" is a space, and videos of one frame are left out."""
    family = _family(Path(root), split, clean=lambda text: text.replace("_", " "), min_frames=2)
    return read_videos(family, _videos(family.file), faults or Faults())


def video_objects(root: Path, split: str) -> dict[str, tuple[Target, ...]]:
    """Every annotated object of each video: those of the video's own "anno_id" (the synthetic data set lists them),
    or else those that its expressions name."""
    family = _family(Path(root), split)
    assert family.store is not None
    found: dict[str, tuple[Target, ...]] = {}
    for uid, meta in _videos(family.file).items():
        where = f"{family.file}: video {uid!r}"
        expressions = value(meta, "expressions", dict, where).values()
        ids = anno_ids(meta) or [
            anno for expression in expressions for anno in anno_ids(expression) or []
        ]
        frames = Frames(uid, frame_names(meta, where), None)
        found[uid] = tuple(family.store.target(frames, anno, where) for anno in dict.fromkeys(ids))
    return found


def split_folder(root: Path, split: str, mark: str) -> Path:
    """<root>/<split>, or a ValueError that names the splits there are (folders that hold `mark`)."""
    folder = root / split
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob(f"*/{mark}"))
        raise ValueError(
            f"{folder}: no such folder; splits under {root}: {', '.join(found) or 'none'} (data.root)"
        )
    return folder


def _family(root: Path, split: str, **differences: Any) -> Family:
    folder = split_folder(root, split, EXPRESSIONS)
    file = folder / EXPRESSIONS

    def path_of(uid: str) -> str:
        return find_images(
            (folder / "JPEGImages" / uid, folder / "Videos" / f"{uid}.mp4"), file, uid
        )

    return Family(file, path_of, RleStore(folder / MASKS), **differences)


def _videos(file: Path) -> dict[str, Any]:
    videos: dict[str, Any] = value(load_json(file), "videos", dict, str(file))
    return videos
