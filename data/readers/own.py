"""Reads your own data: a folder of videos and one JSON file for each split.

    <root>/<split>.json
    {"videos": {"kitchen": {
        "path": "clips/kitchen.mp4",            a video file, a folder of images, or one image; relative to <root>
        "frames": ["00000", "00005"],           optional, of a folder of images: which of them, in order (default: all)
        "objects": {"cup": "masks/kitchen/cup", a folder of PNGs named as the frames (00000.png, ..: every pixel that is
                                                not 0 is the object; no PNG: it is not visible in that frame), or
                    "jug": [{"size", "counts"}, null]},    a COCO run-length encoding or null for each frame
        "expressions": [
            {"exp": "what is poured from", "objects": ["jug"], "kind": "reasoning"},
            {"exp": "the cup on the left", "objects": ["cup"]},
            {"exp": "a knife", "objects": []},  there is none
            {"exp": "the one that moves"}]      no "objects": the answer is not known
    }}}

"objects" are optional: without them the data set serves for inference, with them for training and evaluation too.
"kind" is a name for reports. Frames of a video file are named by their number: 00000, 00001 and so on.
`python -m ray_jobs.prepare` checks it all and lists what is wrong; reading stops at the first error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.types import Notes, Sample, Target, Video
from data.frames.frames import IMAGES, probe
from data.masks.png_masks import PngMasks
from data.masks.rle_entries import entries_of
from data.readers.expressions import present_frames
from data.readers.fields import IMAGE_SUFFIXES, Faults, load_json, texts, value

OF_VIDEO = ("path", "frames", "objects", "expressions")
OF_EXPRESSION = ("exp", "objects", "kind")

OTHERS = tuple(
    suffix for suffix in IMAGES if suffix not in IMAGE_SUFFIXES
)  # stay in the name of a frame


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions, in the order of the file; `uid` is "<video>/<place in the list>"."""
    root = Path(root)
    faults = faults or Faults()
    file = root / f"{split}.json"
    if not file.is_file():
        found = sorted(path.stem for path in root.glob("*.json"))
        raise ValueError(
            f"{file}: no such file; splits in {root}: {', '.join(found) or 'none'} (data.root)"
        )
    samples: list[Sample] = []
    for uid, meta in value(load_json(file), "videos", dict, str(file)).items():
        with faults.noted():
            samples += _read_video(root, uid, meta, f"{file}: video {uid!r}", faults)
    return samples


def _read_video(root: Path, uid: str, meta: Any, where: str, faults: Faults) -> list[Sample]:
    path = root / value(meta, "path", str, where)
    _known(meta, OF_VIDEO, where)
    video = _video(uid, path, meta, where, faults)
    objects: dict[str, Target | None] = {}
    for name, masks in (value(meta, "objects", dict, where) if "objects" in meta else {}).items():
        objects[name] = None  # known, but wrong
        with faults.noted():
            its = f"{where}: object {name!r}"
            make = _from_folder if isinstance(masks, str) else _from_list
            objects[name] = make(root, video, name, masks, its)
    samples: list[Sample] = []
    for i, expression in enumerate(value(meta, "expressions", list, where)):
        with faults.noted():
            samples.append(_sample(video, i, expression, objects, f"{where}: expression {i}"))
    return samples


def _video(uid: str, path: Path, meta: Any, where: str, faults: Faults) -> Video:
    """As the file or folder is, or the frames that are listed."""
    try:
        found = probe(path)
    except ValueError as error:
        raise ValueError(f'{where}: "path": {error}') from error
    names = tuple(_stem(name) for name in found.frame_names)  # as masks and predictions are called
    if len(set(names)) < len(names):
        raise ValueError(
            f"{where}: images of {path} differ in their suffix alone: give each its own name"
        )
    if "frames" in meta:
        if not path.is_dir():
            raise ValueError(
                f'{where}: "frames" is for a folder of images, but {path} is a file: take it out'
            )
        names = texts(meta, "frames", where)
        if not names:
            raise ValueError(
                f'{where}: "frames" is empty: list frames, or take it out to use all images'
            )
        present_frames(str(path), names, where, faults)
    return Video(uid, found.path, names, found.height, found.width)


def _from_folder(root: Path, video: Video, name: str, masks: Any, where: str) -> Target:
    folder = root / masks
    if not folder.is_dir():
        raise ValueError(
            f"{where}: there is no folder {folder}/: name one with a PNG for each frame"
        )
    stems = tuple(
        frame.partition(".")[0] if frame.endswith(OTHERS) else frame for frame in video.frame_names
    )
    found = {file.removesuffix(".png") for file in os.listdir(folder) if file.endswith(".png")}
    strange = sorted(found - set(stems))
    if strange or not found:
        what = f"{strange[0]}.png, which is no frame" if strange else "no PNG"
        raise ValueError(
            f"{where}: {folder} holds {what}: its PNGs are named as the frames, {stems[0]}.png and so on"
        )
    return Target(
        f"{video.uid}/{name}", PngMasks(str(folder), stems, None, video.height, video.width, True)
    )


def _from_list(root: Path, video: Video, name: str, masks: Any, where: str) -> Target:
    entry, counts_F = entries_of(name, masks)
    if entry.problem:
        raise ValueError(f"{where}: {entry.problem}")
    if entry.num_frames != video.num_frames:
        raise ValueError(
            f"{where} has {entry.num_frames} masks, but its video {video.num_frames} frames"
        )
    size = [video.height, video.width]
    if entry.num_masks and [entry.height, entry.width] != size:
        raise ValueError(
            f'{where}: "size" is {entry.height} x {entry.width}, but its frames {size[0]} x {size[1]}'
        )
    masks_F = tuple(
        None if counts is None else {"size": size, "counts": counts} for counts in counts_F
    )
    return Target(f"{video.uid}/{name}", masks_F)  # type: ignore[arg-type]


def _sample(
    video: Video, i: int, expression: Any, objects: dict[str, Target | None], where: str
) -> Sample:
    query = value(expression, "exp", str, where)
    _known(expression, OF_EXPRESSION, where)
    if not query.strip():
        raise ValueError(f'{where}: "exp" is empty: say what to find')
    named = texts(expression, "objects", where) if "objects" in expression else ()
    for name in named:
        if name not in objects:
            raise ValueError(
                f'{where}: "objects" names {name!r}; the video has {", ".join(objects) or "none"}'
            )
    targets = tuple(target for name in named if (target := objects[name]) is not None)
    kind = value(expression, "kind", str, where) if "kind" in expression else ""
    notes = Notes(hidden="objects" not in expression)
    return Sample(f"{video.uid}/{i}", video, query, targets, kind, notes)


def _known(mapping: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {key!r}; known: {', '.join(keys)}")


def _stem(name: str) -> str:
    """Without the suffixes that `data.frames.frames` tries by itself."""
    return next((name[: -len(suffix)] for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), name)
