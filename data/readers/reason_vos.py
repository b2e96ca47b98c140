"""Read ReasonVOS, a benchmark of one split ("test").

    <root>/meta_expressions.json
        {"videos": {video: {"source", "frames", "is_sent", "expressions"}}}
    <root>/JPEGImages/<video>/<frame>.jpg
    <root>/Annotations/<source>_<video>_<object>/<frame>.png
        every pixel that is not 0 is the object

"expressions" is a list of {"obj_id", "exp_id", "exp_text", "is_sent"}, or {id: {"obj_id",
"exp_text"}}. The official evaluation names results by object, and two expressions of one object
overwrite each other. Here `uid` is "<video>/<exp_id>", or the place in the list if exp_ids of a
video repeat.

The published scripts differ in the folder's source: as in the file, or in small letters. A frame
without a PNG does not count in the official evaluation; the note `frames_listed` names the others.
A missing folder is an error here, while the official evaluation leaves the expression out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.fields import Faults, inside, load_videos, value
from data.frames.images import stems_in
from data.masks.png_masks import PngMasks
from data.masks.stores import ObjectStore
from data.readers.expressions import (
    Format,
    Meta,
    anno_ids,
    find_images,
    notes_of,
    read_videos,
)

SPLIT = "test"


def read_reason_vos(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions in the order of the file, with the notes `source` and `object`.

    `Sample.kind` is "sentence" or "phrase".
    """
    root = Path(root)
    faults = faults or Faults()
    if split != SPLIT:
        raise ValueError(
            f"ReasonVOS has one split, {SPLIT!r}, for evaluation alone; there is no {split!r}"
        )
    file = root / "meta_expressions.json"
    videos: dict[str, Any] = {}
    for uid, meta in load_videos(file).items():
        with faults.noted():
            videos[uid] = _with_expressions_by_id(meta, f"{file}: video {uid!r}")

    def mask_folders(uid: str, obj: str) -> list[Path]:
        source = str(videos[uid].get("source", ""))
        folders = []
        for name in dict.fromkeys((source, source.lower())):
            folders.append(root / "Annotations" / f"{name}_{uid}_{obj}")
        return folders

    format = Format(
        file,
        lambda uid: find_images((root / "JPEGImages" / uid,), file, uid),
        ObjectStore(mask_folders),
        ids=lambda expression: anno_ids(expression, "obj_id"),
        text="exp_text",
        kind=lambda expression: "sentence" if expression.get("is_sent") else "phrase",
        notes=_notes,
    )
    return [_with_frames_listed(sample) for sample in read_videos(format, videos, faults)]


def _with_expressions_by_id(meta: Any, where: str) -> Meta:
    """Return the entry of a video with its expressions under their ids, each with its "is_sent"."""
    inside(value(meta, "source", str, where) or "-", where, '"source"')
    expressions = value(meta, "expressions", (dict, list), where)
    if isinstance(expressions, list):
        expressions = _by_id(expressions, where)

    completed = {}
    for key, expression in expressions.items():
        value(expression, "obj_id", (str, int, list), f"{where}: expression {key!r}")
        completed[key] = {"is_sent": meta.get("is_sent"), **expression}
    return {**meta, "expressions": completed}


def _by_id(expressions: list[Any], where: str) -> Meta:
    ids = []
    for i, expression in enumerate(expressions):
        ids.append(str(value(expression, "exp_id", (str, int), f"{where}: expression {i}")))
    if len(set(ids)) < len(ids):
        ids = [str(i) for i in range(len(expressions))]
    return dict(zip(ids, expressions, strict=True))


def _notes(uid: str, meta: Meta, expression: Meta) -> Notes:
    notes = notes_of(expression)
    return replace(notes, object=str(expression["obj_id"]), source=meta["source"])


def _with_frames_listed(sample: Sample) -> Sample:
    """Return the sample with a note of the frames to count, unless all do."""
    listed: set[str] = set()
    for target in sample.targets:
        assert isinstance(target.masks_F, PngMasks)
        listed |= stems_in(target.masks_F.folder, ".png")

    names = tuple(name for name in sample.video.frame_names if name in listed)
    if len(names) == sample.video.num_frames:
        return sample
    return replace(sample, notes=replace(sample.notes, frames_listed=names))
