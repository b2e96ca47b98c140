"""Read Ref-YouTube-VOS, and Ref-DAVIS17 converted to the same layout (see `data.readers.davis`).

    <root>/meta_expressions/<split>/meta_expressions.json
        as MeViS, with {"exp", "obj_id": "1"}: one object, a text
    <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<frame>.png
        palette PNG: the number of the object at each pixel
    <root>/<split>/meta.json
        {"videos": {video: {"objects": {"1": {"category", ..}}}}}

Splits of Ref-YouTube-VOS: train has ground truth; valid and test have none. The JSON file of valid
also lists the videos of the competition's test set. They are left out, so the file of test must
exist. The frames of a video are the listed ones, as the server expects. A frame without its PNG is
an error, as in the published readers. VISA's mask_dict.pkl with its running count of keys is not
used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from core.types import Notes, Sample
from data.fields import Faults, load_videos, splits_found
from data.masks.stores import PaletteStore
from data.readers.expressions import (
    Format,
    Meta,
    anno_ids,
    find_images,
    notes_of,
    read_videos,
)

# Splits of Ref-YouTube-VOS without ground truth.
HIDDEN = ("valid", "test")
EXPRESSIONS = "meta_expressions.json"


def read_youtube_vos(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions of a split in the order of the file.

    The notes have `object`, and `category` if meta.json exists.
    """
    root = Path(root)
    faults = faults or Faults()
    file, videos = load_expressions(root, split)
    if split == "valid":
        for uid in _videos_of_test(root, file):
            videos.pop(uid, None)

    # The images of test lie beside those of valid.
    image_splits = ("test", "valid") if split == "test" else (split,)
    images = [root / name / "JPEGImages" for name in image_splits]
    annotations = None if split in HIDDEN else root / split / "Annotations"
    categories = load_categories(root / split / "meta.json", faults)
    return read_layout(file, videos, images, annotations, categories, faults)


def load_expressions(root: Path, split: str) -> tuple[Path, Meta]:
    """Return the file of a split and its videos.

    Raises:
        ValueError: The split is missing. The message names the existing ones.
    """
    file = root / "meta_expressions" / split / EXPRESSIONS
    if not file.parent.is_dir():
        files = root.glob(f"meta_expressions/*/{EXPRESSIONS}")
        found = splits_found(path.parent.name for path in files)
        raise ValueError(f"{file.parent}: no such folder; splits under {root}: {found} (data.root)")
    return file, load_videos(file)


def load_categories(file: Path, faults: Faults) -> Meta:
    """Return {video: {"objects": {object: {"category"}}}} of meta.json; empty without the file."""
    if file.is_file():
        with faults.noted():
            return load_videos(file)
    return {}


def read_layout(
    file: Path,
    videos: Meta,
    images: list[Path],
    annotations: Path | None,
    categories: Meta,
    faults: Faults,
) -> list[Sample]:
    """Return the samples of a split.

    Args:
        file: The JSON file, for messages.
        images: Folders to look for a folder <video> in.
        annotations: Folder of the palette PNGs; None if the ground truth is not public.
    """
    format = Format(
        file,
        lambda uid: find_images([folder / uid for folder in images], file, uid),
        PaletteStore(annotations) if annotations else None,
        ids=lambda expression: anno_ids(expression, "obj_id"),
        notes=lambda uid, meta, expression: _notes(uid, expression, categories),
    )
    return read_videos(format, videos, faults)


def _notes(uid: str, expression: Meta, categories: Meta) -> Notes:
    notes = notes_of(expression)
    if "obj_id" not in expression:
        return notes

    name = str(expression["obj_id"])
    # meta.json serves this note alone, so anything unexpected in it is passed over.
    objects = _entry(_entry(categories, uid), "objects")
    category = str(_entry(objects, name).get("category", ""))
    return replace(notes, object=name, category=category)


def _entry(mapping: Meta, key: str) -> Meta:
    found = mapping.get(key)
    return found if isinstance(found, dict) else {}


def _videos_of_test(root: Path, file: Path) -> Meta:
    other = root / "meta_expressions" / "test" / EXPRESSIONS
    if not other.is_file():
        raise ValueError(
            f"{other} is missing: {file} lists the videos of valid and of test, and only this file "
            'tells which are which; put it there (or {"videos": {}}, if yours lists valid alone)'
        )
    return load_videos(other)
