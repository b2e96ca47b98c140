"""Reads ReVOS. Both splits share one folder:

    <root>/meta_expressions_<split>_.json   as MeViS, with "type_id" (0 referring, 1 reasoning, 2 no such object)
    <root>/mask_dict.json                   as MeViS, of all splits
    <root>/mask_dict_foreground.json        {video: {"masks_rle": [encoding or null for each frame], ..}}: needed for R
    <root>/JPEGImages/<video>/              the name of a video has slashes: "UVO/all/-fbscFfkh4M"; also <root>/<video>/

`split` is train, valid, or any other name in such a file (the release has train_sub, too). `Sample.kind` is
"referring", "reasoning" or "no_target"; the note "foreground" holds the masks of everything annotated in the video,
read when asked for, and is absent where mask_dict_foreground.json is. Videos of one frame are left out, as VISA does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.types import Sample
from data.masks.rle_index import RleMasks, entries
from data.masks.stores import RELEASE, RleStore
from data.readers.expressions import Family, find_images, read_videos
from data.readers.fields import Faults, load_json, value

KINDS = {0: "referring", 1: "reasoning", 2: "no_target"}


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions of a split, in the order of the file."""
    root = Path(root)
    faults = faults or Faults()
    file = root / f"meta_expressions_{split}_.json"
    if not file.is_file():
        found = sorted(path.name[17:-6] for path in root.glob("meta_expressions_*_.json"))
        raise ValueError(
            f"{file}: no such file; splits in {root}: {', '.join(found) or 'none'} (data.root)"
        )
    videos = value(load_json(file), "videos", dict, str(file))
    family = Family(
        file,
        lambda uid: find_images((root / "JPEGImages" / uid, root / uid), file, uid),
        RleStore(root / "mask_dict.json"),
        kind=lambda expression: _kind(expression, file),
        known=frozenset({"exp", "obj_id", "anno_id", "type_id"}),
        video_notes=_foreground(root / "mask_dict_foreground.json", faults),
        min_frames=2,
    )
    return read_videos(family, videos, faults)


def _kind(expression: dict[str, Any], file: Path) -> str:
    number = value(expression, "type_id", int, f"{file}: {expression['exp']!r:.60}")
    if number not in KINDS:
        meaning = ", ".join(f"{i} ({kind})" for i, kind in KINDS.items())
        raise ValueError(
            f'{file}: "type_id" of {expression["exp"]!r:.60} is {number!r}, not one of {meaning}'
        )
    return KINDS[number]


def _foreground(file: Path, faults: Faults) -> Any:
    """The note of a video; a foreground that does not fit its frames is an error."""
    if not file.is_file():
        return lambda uid, meta: {}
    held: dict[str, Any] = {}
    with faults.noted():
        held = entries(file, "foreground")

    def note(uid: str, meta: dict[str, Any]) -> dict[str, Any]:
        if uid not in held:
            return {}
        entry = held[uid]
        frames = len(meta["frames"])
        if entry.problem:
            raise ValueError(f'{file}: "masks_rle" of {entry.problem}')
        if entry.num_frames != frames:
            raise ValueError(
                f'{file}: key {uid!r}: "masks_rle" holds {entry.num_frames} masks for {frames} frames: {RELEASE}'
            )
        return {"foreground": RleMasks(str(file), uid, "foreground", frames)}

    return note
