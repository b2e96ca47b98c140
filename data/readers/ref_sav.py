"""Read Ref-SAV (Sa2VA): long descriptions of objects in the videos of SA-V.

    <root>/Ref-SAV.json                        split train; or a name in FILES
        {video: {"video_path", "anno_path", "objects": {number: {"formated": sentence}}}}
    <root>/sam_v_full/<video_path>             SA-V's videos of 24 frames a second
    <root>/sam_v_full/<anno_path>              SA-V's masks of every fourth frame
                                               (`data.masks.masklets`)

    <root>/ref_sav_eval/                       split valid; or <root> is this folder
        meta_expressions_valid.json            as MeViS, with "type_id": 0 long, 1 short
        mask_dict.json
        videos/<video>/<frame>.jpg

`root` is Sa2VA's folder `data/video_datas`. A number of "objects" is the object's place in the
lists of SA-V's file. Only labelled frames are frames here: frame i is frame 4i of the video's file.
Some paths name their archive twice ("sav_000/sav_train/sav_000/.."); the published reader takes out
the first, here it is taken out if the file is not there. `Sample.kind` of valid is "long" or
"short", and the official figures are the means of both.

The number of frames and their size are in SA-V's files alone, so that each is read once; what was
found is kept beside the list (".sa-v.json").

Sources: bytedance/Sa2VA, README.md and projects/sa2va/datasets/sa2va_data_03_refvos.py;
Dmmm1997/VideoSEG-O3, tools/eval/eval_ref_sav.py. Licence of the sentences: not stated there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.types import Sample, Target
from data.derived import KnownFacts
from data.fields import Faults, inside, load_json, load_videos, value
from data.masks.masklets import MaskletMasks, masklet_facts
from data.masks.stores import ListedFrames, RleStore, Size
from data.readers.expressions import Format, Meta, find_images, read_videos

FILES = (
    "Ref-SAV.json",
    "sam_v_final_custom.json",
    "sam_v_final_v3.json",
    "../ref_sav/Ref-SAV.json",
)
VIDEOS = "sam_v_full"
EVALUATION = "ref_sav_eval"
EXPRESSIONS = "meta_expressions_valid.json"
# SA-V labels every fourth frame.
STRIDE = 4
KINDS = {0: "long", 1: "short"}

log = logging.getLogger(__name__)


def read_ref_sav(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all sentences in the order of the file; `uid` is "<video>/<number of the object>"."""
    root = Path(root)
    faults = faults or Faults()
    if split == "train":
        return _read_train(root, faults)
    if split == "valid":
        return _read_valid(root, faults)
    raise ValueError(f"{root}: Ref-SAV has the splits train, valid; there is no {split!r}")


def _read_valid(root: Path, faults: Faults) -> list[Sample]:
    folder = root / EVALUATION
    if (root / EXPRESSIONS).is_file():
        folder = root
    file = folder / EXPRESSIONS

    format = Format(
        file,
        lambda uid: find_images((folder / "videos" / uid,), file, uid),
        RleStore(folder / "mask_dict.json"),
        kind=lambda expression: _kind(expression, file),
    )
    return read_videos(format, load_videos(file), faults)


def _kind(expression: Meta, file: Path) -> str:
    where = f"{file}: expression {expression.get('exp')!r:.60}"
    number = value(expression, "type_id", int, where)
    if number not in KINDS:
        raise ValueError(f'{where}: "type_id" is {number}, not 0 (long) or 1 (short)')
    return KINDS[number]


def _read_train(root: Path, faults: Faults) -> list[Sample]:
    file = _list_file(root)
    facts = KnownFacts(file, ".sa-v.json", masklet_facts)
    store = MaskletStore()
    videos: dict[str, Any] = {}
    paths: dict[str, str] = {}
    listed = load_json(file)
    log.info("%s: %d videos; the files of SA-V are read once", file, len(listed))
    try:
        for uid, meta in listed.items():
            with faults.noted():
                where = f"{file}: video {uid!r}"
                inside(uid, where, "its name")
                paths[uid] = _path(root, meta, "video_path", where)
                anno = _path(root, meta, "anno_path", where)
                store.videos[uid] = Annotated(anno, *facts.of(anno))
                videos[uid] = _with_frames(uid, meta, store.videos[uid], where)
    finally:
        facts.save()
    format = Format(
        file,
        lambda uid: paths[uid],
        store,
        ids=lambda expression: [expression["anno"]],
        text="formated",
        stride=STRIDE,
    )
    return read_videos(format, videos, faults)


def _list_file(root: Path) -> Path:
    for name in FILES:
        if (root / name).is_file():
            return (root / name).resolve()
    raise ValueError(
        f"{root}: none of {', '.join(FILES)} is there: data.root is Sa2VA's folder data/video_datas"
    )


def _path(root: Path, meta: Any, key: str, where: str) -> str:
    """Return an existing file of SA-V."""
    name = inside(value(meta, key, str, where), where, f'"{key}"')
    places = [root / VIDEOS / name]
    parts = name.split("/")
    if "sav_train" in parts[1:-1]:
        at = parts.index("sav_train", 1)
        if parts[at - 1] == parts[at + 1]:
            places.append(root.joinpath(VIDEOS, *parts[: at - 1], *parts[at:]))
    for place in places:
        if place.is_file():
            return str(place)
    raise ValueError(
        f'{where}: "{key}": {places[-1]} is missing: put the archives of SA-V below '
        f"{root / VIDEOS}, or take the video out of the file"
    )


@dataclass(frozen=True)
class Annotated:
    """An annotation file of SA-V, with its `masklet_facts`."""

    file: str
    num_frames: int
    num_objects: int
    height: int
    width: int


def _with_frames(uid: str, meta: Any, annotated: Annotated, where: str) -> Meta:
    """Return a video as `read_videos` reads it."""
    expressions: Meta = {}
    for number, spoken in value(meta, "objects", dict, where).items():
        if not isinstance(spoken, dict):
            raise ValueError(f'{where}: "objects": {number!r:.20} is {spoken!r:.60}, not an object')
        expressions[number] = {**spoken, "anno": f"{uid}/{number}"}
    names = [f"{STRIDE * i:05d}" for i in range(annotated.num_frames)]
    return {"frames": names, "expressions": expressions}


@dataclass
class MaskletStore:
    """The objects of all videos, each known as "<video>/<number>"."""

    videos: dict[str, Annotated] = field(default_factory=dict)

    def target(self, frames: ListedFrames, anno: str, where: str) -> Target:
        number = anno.rpartition("/")[2]
        known = self.videos[frames.uid]
        if not number.isdecimal() or int(number) >= known.num_objects:
            raise ValueError(
                f"{where} names object {number!r:.20}, but {known.file} has {known.num_objects} "
                "objects, from 0"
            )
        return Target(anno, MaskletMasks(known.file, int(number), known.num_frames))

    def size(self, anno: str) -> Size | None:
        known = self.videos[anno.rpartition("/")[0]]
        return known.height, known.width
