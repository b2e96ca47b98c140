"""Reads ReasonVOS, a benchmark of one split (called "test" here).

    <root>/meta_expressions.json   {"videos": {video: {"source", "frames", "is_sent", "expressions"}}}
    <root>/JPEGImages/<video>/<frame>.jpg
    <root>/Annotations/<source>_<video>_<object>/<frame>.png     every pixel that is not 0 is the object

"expressions" is a list of {"obj_id", "exp_id", "exp_text", "is_sent"}, or {id: {"obj_id", "exp_text"}}. The official
evaluation names results by object, so that two expressions of one object overwrite each other; here `uid` is
"<video>/<exp_id>", one for each expression (its place in the list, where exp_ids of a video repeat).

The folder's source is written as in the file or in small letters (the published scripts differ). A frame without a PNG
does not count in the official evaluation: the note `frames_listed` then names those that do. A missing folder is an
error here (the official evaluation leaves the expression out).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.masks.png_masks import PngMasks
from data.masks.stores import ObjectStore
from data.readers.expressions import (
    Family,
    Meta,
    anno_ids,
    find_images,
    notes_of,
    read_videos,
)
from data.readers.fields import Faults, load_json, value

SPLIT = "test"


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions, in the order of the file; notes `source` and `object`; `kind` is "sentence" or "phrase"."""
    root = Path(root)
    faults = faults or Faults()
    if split != SPLIT:
        raise ValueError(
            f"ReasonVOS has one split, {SPLIT!r}, for evaluation alone; there is no {split!r}"
        )
    file = root / "meta_expressions.json"
    videos: dict[str, Any] = value(load_json(file), "videos", dict, str(file))
    found: dict[str, Any] = {}
    for uid, meta in videos.items():
        with faults.noted():
            found[uid] = _as_dict(meta, f"{file}: video {uid!r}")

    def folders(uid: str, obj: str) -> list[Path]:
        source = str(found[uid].get("source", ""))
        return [
            root / "Annotations" / f"{name}_{uid}_{obj}"
            for name in dict.fromkeys((source, source.lower()))
        ]

    family = Family(
        file,
        lambda uid: find_images((root / "JPEGImages" / uid,), file, uid),
        ObjectStore(folders),
        ids=lambda expression: anno_ids(expression, "obj_id"),
        text="exp_text",
        kind=lambda expression: "sentence" if expression.get("is_sent") else "phrase",
        notes=_notes,
    )
    return [_with_listed_frames(sample) for sample in read_videos(family, found, faults)]


def _as_dict(meta: Any, where: str) -> dict[str, Any]:
    """The video with its expressions under their ids, each with its own "is_sent"."""
    value(meta, "source", str, where)
    expressions = value(meta, "expressions", (dict, list), where)
    if isinstance(expressions, list):
        ids = [
            str(value(one, "exp_id", (str, int), f"{where}: expression {i}"))
            for i, one in enumerate(expressions)
        ]
        unique = len(set(ids)) == len(ids)
        expressions = {ids[i] if unique else str(i): one for i, one in enumerate(expressions)}
    for key, one in expressions.items():
        value(one, "obj_id", (str, int, list), f"{where}: expression {key!r}")
    sentence = meta.get("is_sent")
    return {
        **meta,
        "expressions": {key: {"is_sent": sentence, **one} for key, one in expressions.items()},
    }


def _notes(uid: str, meta: Meta, expression: Meta) -> Notes:
    return replace(notes_of(expression), object=str(expression["obj_id"]), source=meta["source"])


def _with_listed_frames(sample: Sample) -> Sample:
    """The sample with the note of the frames that count, if not all do."""
    listed: set[str] = set()
    for target in sample.targets:
        assert isinstance(target.masks_F, PngMasks)
        listed |= {
            file.removesuffix(".png")
            for file in os.listdir(target.masks_F.folder)
            if file.endswith(".png")
        }
    names = tuple(name for name in sample.video.frame_names if name in listed)
    if len(names) == sample.video.num_frames:
        return sample
    return replace(sample, notes=replace(sample.notes, frames_listed=names))
