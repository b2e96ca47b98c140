"""Reads Long-RVOS.

    <root>/<split>/meta_expressions.json             as MeViS: "obj_id" (one number), "type" static, dynamic or hybrid
    <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<obj_id>/<frame>.png    every pixel that is not 0 is the object

A PNG that is missing means that the object is not visible, as in the official evaluation. Splits: train, valid, test;
without the folder Annotations (or mask_dict.json, into which VideoSEG-O3's release converts it: used if there are no
PNGs and expressions carry "anno_id") the ground truth is not public. `Sample.kind` is the type, by which the official
evaluation reports. Videos of one frame are left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.masks.stores import ObjectStore, RleStore, Store
from data.readers.expressions import (
    Family,
    Meta,
    anno_ids,
    find_images,
    notes_of,
    read_videos,
)
from data.readers.fields import Faults, load_json, value
from data.readers.mevis import split_folder

KINDS = ("static", "dynamic", "hybrid")


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions of a split, in the order of the file; the note `object` is the number of the object."""
    folder = split_folder(Path(root), split, "meta_expressions.json")
    faults = faults or Faults()
    file = folder / "meta_expressions.json"
    annotations = folder / "Annotations"
    videos: dict[str, Any] = value(load_json(file), "videos", dict, str(file))
    store, ids = _masks(folder, annotations)
    family = Family(
        file,
        lambda uid: find_images((folder / "JPEGImages" / uid,), file, uid),
        store,
        ids=lambda expression: anno_ids(expression, ids),
        kind=lambda expression: _kind(expression, file),
        notes=_notes,
        min_frames=2,
    )
    return read_videos(family, videos, faults)


def _masks(folder: Path, annotations: Path) -> tuple[Store | None, str]:
    if annotations.is_dir():
        return ObjectStore(lambda uid, obj: [annotations / uid / obj]), "obj_id"
    if (folder / "mask_dict.json").is_file():
        return RleStore(folder / "mask_dict.json"), "anno_id"
    return None, "obj_id"


def _kind(expression: dict[str, Any], file: Path) -> str:
    """Test files may come without a type."""
    kind = str(expression.get("type", ""))
    if kind and kind not in KINDS:
        raise ValueError(
            f'{file}: "type" of {expression.get("exp")!r:.60} is {kind!r}, not one of {", ".join(KINDS)}'
        )
    return kind


def _notes(uid: str, meta: Meta, expression: Meta) -> Notes:
    return replace(notes_of(expression), object=str(expression.get("obj_id", "")))
