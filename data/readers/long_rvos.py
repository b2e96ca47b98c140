"""Read Long-RVOS.

    <root>/<split>/meta_expressions.json
        as MeViS, with "obj_id" (one number) and "type" (static, dynamic or hybrid)
    <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<obj_id>/<frame>.png
        every pixel that is not 0 is the object

Splits: train, valid, test. A missing PNG means an invisible object, as in the official evaluation.
VideoSEG-O3's release converts the PNGs to mask_dict.json; it is used if there is no folder
Annotations and the expressions carry "anno_id". Without either the ground truth is not public.
`Sample.kind` is the type; the official evaluation reports by it. Videos of one frame are left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.fields import Faults, load_videos
from data.masks.stores import ObjectStore, RleStore, Store
from data.readers.expressions import (
    Format,
    Meta,
    anno_ids,
    find_images,
    notes_of,
    read_videos,
)
from data.readers.mevis import split_folder

KINDS = ("static", "dynamic", "hybrid")


def read_long_rvos(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions of a split in the order of the file, with the note `object`."""
    folder = split_folder(Path(root), split, "meta_expressions.json")
    file = folder / "meta_expressions.json"
    videos = load_videos(file)
    store, ids_field = _masks(folder)
    format = Format(
        file,
        lambda uid: find_images((folder / "JPEGImages" / uid,), file, uid),
        store,
        ids=lambda expression: anno_ids(expression, ids_field),
        kind=lambda expression: _kind(expression, file),
        notes=_notes,
        min_frames=2,
    )
    return read_videos(format, videos, faults or Faults())


def _masks(folder: Path) -> tuple[Store | None, str]:
    """Return the store of a split's masks, and the field of an expression with its objects."""
    annotations = folder / "Annotations"
    converted = folder / "mask_dict.json"
    if annotations.is_dir():
        return ObjectStore(lambda uid, obj: [annotations / uid / obj]), "obj_id"
    if converted.is_file():
        return RleStore(converted), "anno_id"
    return None, "obj_id"


def _kind(expression: dict[str, Any], file: Path) -> str:
    """Return the type of an expression; test files may come without."""
    kind = str(expression.get("type", ""))
    if kind and kind not in KINDS:
        raise ValueError(
            f'{file}: "type" of {expression.get("exp")!r:.60} is {kind!r}, not one of '
            f"{', '.join(KINDS)}"
        )
    return kind


def _notes(uid: str, meta: Meta, expression: Meta) -> Notes:
    return replace(notes_of(expression), object=str(expression.get("obj_id", "")))
