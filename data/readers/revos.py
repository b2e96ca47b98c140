"""Read ReVOS. All splits share one folder.

    <root>/meta_expressions_<split>_.json   as MeViS, with "type_id"
    <root>/mask_dict.json                   as MeViS, of all splits
    <root>/mask_dict_foreground.json        needed for the metric R
        {video: {"masks_rle": [encoding or null for each frame], ..}}
    <root>/JPEGImages/<video>/              or <root>/<video>/

The name of a video has slashes: "UVO/all/-fbscFfkh4M". `split` is train, valid, or any other name
in such a file (the release also has train_sub). `Sample.kind` follows "type_id": "referring" (0),
"reasoning" (1) or "no_target" (2, no such object). The note `foreground_F` holds the masks of
everything annotated in the video, and stays None without mask_dict_foreground.json. Videos of one
frame are left out, as VISA does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.fields import Faults, load_videos, splits_found, value
from data.masks.rle_entries import Entry
from data.masks.rle_index import RleMasks, entries
from data.masks.stores import RELEASE, RleStore
from data.readers.expressions import Format, Meta, find_images, notes_of, read_videos

KINDS = {0: "referring", 1: "reasoning", 2: "no_target"}
PREFIX = "meta_expressions_"
SUFFIX = "_.json"


def read_revos(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions of a split in the order of the file."""
    root = Path(root)
    faults = faults or Faults()
    file = root / f"{PREFIX}{split}{SUFFIX}"
    if not file.is_file():
        splits = []
        for path in root.glob(f"{PREFIX}*{SUFFIX}"):
            splits.append(path.name.removeprefix(PREFIX).removesuffix(SUFFIX))
        found = splits_found(splits)
        raise ValueError(f"{file}: no such file; splits in {root}: {found} (data.root)")

    videos = load_videos(file)
    foreground_of = _foregrounds(root / "mask_dict_foreground.json", faults)

    def path_of(uid: str) -> str:
        folders = (root / "JPEGImages" / uid, root / uid)
        return find_images(folders, file, uid)

    def notes(uid: str, meta: Meta, expression: Meta) -> Notes:
        return replace(notes_of(expression), foreground_F=foreground_of(uid, meta))

    format = Format(
        file,
        path_of,
        RleStore(root / "mask_dict.json"),
        kind=lambda expression: _kind(expression, file),
        notes=notes,
        min_frames=2,
    )
    return read_videos(format, videos, faults)


def _kind(expression: dict[str, Any], file: Path) -> str:
    sentence = f"{expression['exp']!r:.60}"
    number = value(expression, "type_id", int, f"{file}: {sentence}")
    if number not in KINDS:
        meanings = ", ".join(f"{i} ({kind})" for i, kind in KINDS.items())
        raise ValueError(f'{file}: "type_id" of {sentence} is {number!r}, not one of {meanings}')
    return KINDS[number]


def _foregrounds(
    file: Path,
    faults: Faults,
) -> Callable[[str, Meta], RleMasks | None]:
    """Return a function from a video to its foreground.

    The function raises a ValueError if the foreground does not fit the frames.
    """
    held: dict[str, Entry] = {}
    if file.is_file():
        with faults.noted():
            held = entries(file, "foreground")

    def of_video(uid: str, meta: Meta) -> RleMasks | None:
        if uid not in held:
            return None
        entry = held[uid]
        num_frames = len(meta["frames"])
        if entry.problem:
            raise ValueError(f'{file}: "masks_rle" of {entry.problem}')
        if entry.num_frames != num_frames:
            raise ValueError(
                f'{file}: key {uid!r}: "masks_rle" holds {entry.num_frames} masks for '
                f"{num_frames} frames: {RELEASE}"
            )
        return RleMasks(str(file), uid, "foreground", num_frames)

    return of_video
