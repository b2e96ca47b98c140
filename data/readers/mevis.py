"""Read MeViS (v1 and v2 share the layout), and LV-VIS in VISA's conversion.

    <root>/<split>/meta_expressions.json
        {"videos": {video: {"frames": [name, ..], "expressions": {id: {"exp", "anno_id"}}}}}
    <root>/<split>/mask_dict.json
        {annotation id: [COCO run-length encoding or null, one for each frame]}
    <root>/<split>/JPEGImages/<video>/     or Videos/<video>.mp4

Splits of MeViS: train, valid_u, valid (without ground truth). An expression names its objects in
"anno_id": none, one or several. Without "anno_id" the ground truth is not public, and
mask_dict.json may be missing. Expressions of the same object share its masks. LV-VIS writes
categories with "_" for a space.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.types import Sample, Target
from data.fields import Faults, load_videos, splits_found, value
from data.masks.stores import ListedFrames, RleStore
from data.readers.expressions import Format, anno_ids, find_images, frame_names, read_videos

EXPRESSIONS = "meta_expressions.json"
MASKS = "mask_dict.json"


def read_mevis(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions of a split in the order of the file.

    `uid` is "<video>/<expression id>".
    """
    folder = split_folder(Path(root), split, EXPRESSIONS)
    file = folder / EXPRESSIONS
    format = Format(file, _images_of(folder), RleStore(folder / MASKS))
    return read_videos(format, load_videos(file), faults or Faults())


def read_lvvis(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions of a split of LV-VIS. Videos of one frame are left out."""
    folder = split_folder(Path(root), split, EXPRESSIONS)
    file = folder / EXPRESSIONS
    format = Format(
        file,
        _images_of(folder),
        RleStore(folder / MASKS),
        clean=lambda text: text.replace("_", " "),
        min_frames=2,
    )
    return read_videos(format, load_videos(file), faults or Faults())


def mevis_video_objects(root: Path, split: str) -> dict[str, tuple[Target, ...]]:
    """Return every annotated object of each video, by the uid of the video.

    A video of the synthetic data set lists its objects in an "anno_id" of its own. Otherwise they
    are the objects of its expressions.
    """
    folder = split_folder(Path(root), split, EXPRESSIONS)
    file = folder / EXPRESSIONS
    store = RleStore(folder / MASKS)
    objects: dict[str, tuple[Target, ...]] = {}
    for uid, meta in load_videos(file).items():
        where = f"{file}: video {uid!r}"
        expressions = value(meta, "expressions", dict, where)
        ids = anno_ids(meta) or []
        if not ids:
            for expression in expressions.values():
                ids += anno_ids(expression) or []

        frames = ListedFrames(uid, frame_names(meta, where), None)
        targets = []
        for anno in dict.fromkeys(ids):
            targets.append(store.target(frames, anno, where))
        objects[uid] = tuple(targets)
    return objects


def split_folder(root: Path, split: str, mark: str) -> Path:
    """Return <root>/<split>.

    Raises:
        ValueError: It does not exist. The message names the splits, the folders with a `mark`.
    """
    folder = root / split
    if not folder.is_dir():
        found = splits_found(path.parent.name for path in root.glob(f"*/{mark}"))
        raise ValueError(f"{folder}: no such folder; splits under {root}: {found} (data.root)")
    return folder


def _images_of(folder: Path) -> Callable[[str], str]:
    def path_of(uid: str) -> str:
        places = (folder / "JPEGImages" / uid, folder / "Videos" / f"{uid}.mp4")
        return find_images(places, folder / EXPRESSIONS, uid)

    return path_of
