"""Reads Ref-YouTube-VOS, and Ref-DAVIS17 in the same layout (`data.readers.davis` reads its official one).

    <root>/meta_expressions/<split>/meta_expressions.json   as MeViS: {"exp", "obj_id": "1"}, one object, a text
    <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<frame>.png          palette PNG: the number of the object at each pixel
    <root>/<split>/meta.json                                {"videos": {video: {"objects": {"1": {"category", ..}}}}}

Ref-YouTube-VOS: train has ground truth; valid has none, and its JSON file also lists the videos of the competition's
test set, which are left out here: the file of the split test must therefore be there. The server wants the listed
frames, and these are the frames of the video. A frame without its PNG is an error, as in the published readers.
VISA's mask_dict.pkl, whose keys are a running count, is not used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from core.types import Notes, Sample
from data.masks.stores import PaletteStore
from data.readers.expressions import (
    Family,
    Meta,
    anno_ids,
    find_images,
    notes_of,
    read_videos,
)
from data.readers.fields import Faults, load_json, value

HIDDEN = ("valid", "test")  # splits of Ref-YouTube-VOS without ground truth


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions of a split, in the order of the file; notes `object` and, if meta.json is there, `category`."""
    root = Path(root)
    faults = faults or Faults()
    file, videos = expressions(root, split)
    if split == "valid":
        for uid in _of_test(root, file):
            videos.pop(uid, None)
    images = [
        root / name / "JPEGImages" for name in ((split,) if split != "test" else ("test", "valid"))
    ]
    annotations = None if split in HIDDEN else root / split / "Annotations"
    return read_layout(
        file, videos, images, annotations, categories(root / split / "meta.json", faults), faults
    )


def expressions(root: Path, split: str) -> tuple[Path, Meta]:
    """The file of a split and its videos. ValueError that names the splits there are."""
    file = root / "meta_expressions" / split / "meta_expressions.json"
    if not file.parent.is_dir():
        found = sorted(
            path.parent.name for path in root.glob("meta_expressions/*/meta_expressions.json")
        )
        splits = ", ".join(found) or "none"
        raise ValueError(
            f"{file.parent}: no such folder; splits under {root}: {splits} (data.root)"
        )
    return file, value(load_json(file), "videos", dict, str(file))


def read_layout(
    file: Path,
    videos: Meta,
    images: list[Path],
    annotations: Path | None,
    categories: Meta,
    faults: Faults,
) -> list[Sample]:
    """The samples of a split whose images lie in <folder>/<video> of one of the folders `images`."""
    family = Family(
        file,
        lambda uid: find_images([folder / uid for folder in images], file, uid),
        PaletteStore(annotations) if annotations else None,
        ids=lambda expression: anno_ids(expression, "obj_id"),
        notes=lambda uid, meta, expression: _notes(uid, expression, categories),
    )
    return read_videos(family, videos, faults)


def _notes(uid: str, expression: Meta, categories: Meta) -> Notes:
    notes = notes_of(expression)
    if "obj_id" not in expression:
        return notes
    name = str(expression["obj_id"])
    of_video = categories.get(uid)
    objects = of_video.get("objects") if isinstance(of_video, dict) else None
    found = objects.get(name) if isinstance(objects, dict) else None
    category = str(found.get("category", "")) if isinstance(found, dict) else ""
    return replace(notes, object=name, category=category)


def categories(file: Path, faults: Faults) -> Meta:
    """{video: {"objects": {object: {"category"}}}} of meta.json; empty without it."""
    if file.is_file():
        with faults.noted():
            found: Meta = value(load_json(file), "videos", dict, str(file))
            return found
    return {}


def _of_test(root: Path, file: Path) -> Meta:
    other = root / "meta_expressions" / "test" / "meta_expressions.json"
    if not other.is_file():
        raise ValueError(
            f"{other} is missing: {file} lists the videos of valid and of test, and only this file tells which are "
            'which; put it there (or {"videos": {}}, if yours lists valid alone)'
        )
    found: Meta = value(load_json(other), "videos", dict, str(other))
    return found
