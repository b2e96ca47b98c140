"""The family of data sets that write {"videos": {video: {"frames": [..], "expressions": {id: {..}}}}}.

What differs between its members (where images and masks lie, how fields are called) is a `Family`; the rest is here.
No pixel is decoded: sizes come from the header of the first frame, masks stay where they are. What is wrong is a
ValueError that names file, video, expression and field, or is noted (`data.readers.fields.Faults`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample, Target, Video
from data.frames.frames import frame_size
from data.masks.stores import Frames, Size, Store
from data.readers.fields import IMAGE_SUFFIXES, Faults, image_size, texts, value

Meta = dict[str, Any]


def anno_ids(expression: Meta, key: str = "anno_id") -> list[str] | None:
    """As text, in order, each once: data sets write one number, a list of numbers, or texts. None: not public."""
    ids = expression.get(key)
    if ids is None:
        return None
    return list(dict.fromkeys(str(anno) for anno in (ids if isinstance(ids, list) else [ids])))


def notes_of(expression: Meta) -> Notes:
    """Notes that an expression of every member may carry, whatever else its data set writes."""
    names = expression.get("names")
    return Notes(
        thought=str(expression.get("thought") or ""),
        description=str(expression.get("description") or ""),
        names=tuple(str(name) for name in names) if isinstance(names, list) else (),
        difficulty=expression.get("difficulty"),
        ratings=expression.get("ratings"),
    )


@dataclass(frozen=True)
class Family:
    """One member: `file` is named in messages, `path_of` finds a video's images (ValueError if it cannot)."""

    file: Path
    path_of: Callable[[str], str]
    store: Store | None  # None: the ground truth is not public
    ids: Callable[[Meta], list[str] | None] = anno_ids
    text: str = "exp"  # the field that holds the sentence
    clean: Callable[[str], str] = str
    kind: Callable[[Meta], str] = lambda expression: str(expression.get("kind", ""))
    # from the uid and the entry of the video, and the expression
    notes: Callable[[str, Meta, Meta], Notes] = lambda uid, meta, expression: notes_of(expression)
    min_frames: int = 1  # shorter videos are left out, as the published reader does


def read_videos(family: Family, videos: Meta, faults: Faults) -> list[Sample]:
    """All expressions, in the order of the file; `uid` is "<video>/<expression id>". An expression whose ground truth
    is not public has the note `hidden`: its empty `targets` do not say that there is nothing to find."""
    samples: list[Sample] = []
    for uid, meta in videos.items():
        with faults.noted():
            samples += _read_video(family, uid, meta, faults)
    return samples


def index(samples: Iterable[Sample]) -> dict[str, Sample]:
    """Samples by their uid."""
    by_uid: dict[str, Sample] = {}
    for sample in samples:
        if sample.uid in by_uid:
            raise ValueError(
                f"two samples are called {sample.uid!r}: rename a video or an expression of the data set"
            )
        by_uid[sample.uid] = sample
    return by_uid


def frame_names(meta: Any, where: str) -> tuple[str, ...]:
    names = texts(meta, "frames", where)
    if not names:
        raise ValueError(f'{where}: "frames" is empty: list its frames, or take the video out')
    return names


def present_frames(
    path: str, names: tuple[str, ...], where: str, faults: Faults
) -> tuple[str, ...]:
    """Those of the listed frames that a folder of images holds; all, of a video file.

    ValueError that names the first that is missing; with `faults.frames_later`, only if all of them are.
    """
    if not os.path.isdir(path):
        return names
    files = set(os.listdir(path))
    present = tuple(
        name for name in names if any(name + suffix in files for suffix in IMAGE_SUFFIXES)
    )
    missing = (
        next((name for name in names if name not in present), None)
        if len(present) < len(names)
        else None
    )
    if missing is not None and not (faults.frames_later and present):
        more = (
            f", as it does {len(names) - len(present) - 1} more that are"
            if len(names) - len(present) > 1
            else ""
        )
        raise ValueError(
            f'{path}/{missing}{IMAGE_SUFFIXES[0]} is missing: {where}: "frames" lists it{more}: download it again'
        )
    return present


def header_size(path: str, name: str) -> Size | None:
    """(height, width) of a frame in a folder of images, from its header; None for a video file."""
    files = (Path(path) / (name + suffix) for suffix in IMAGE_SUFFIXES)
    file = next((file for file in files if file.is_file()), None)
    return image_size(file) if file else None


def find_images(folders: Iterable[Path], file: Path, uid: str) -> str:
    """The first of these folders (or video files) that exists."""
    tried = list(folders)
    for place in tried:
        if place.exists():
            return str(place)
    places = " nor ".join(f"{place}" if place.suffix == ".mp4" else f"{place}/" for place in tried)
    raise ValueError(
        f"{file}: video {uid!r} is listed, but there is {'neither ' if len(tried) > 1 else 'no '}{places}: "
        "download its frames, or take it out of the file"
    )


def _read_video(family: Family, uid: str, meta: Any, faults: Faults) -> list[Sample]:
    where = f"{family.file}: video {uid!r}"
    names = frame_names(meta, where)
    expressions = value(meta, "expressions", dict, where)
    if len(names) < family.min_frames:
        return []
    path = family.path_of(uid)
    present = present_frames(path, names, where, faults)
    read: list[tuple[str, str, Meta, tuple[Target, ...]]] = []
    size: Size | None = None
    with faults.noted():
        size = header_size(path, present[0])
    for key, expression in expressions.items():
        with faults.noted():
            targets, size = _targets(
                family, Frames(uid, names, size), expression, f"{where}: expression {key!r}"
            )
            value(expression, family.text, str, f"{where}: expression {key!r}")
            read.append((key, family.kind(expression), expression, targets))
    if not read:
        return []
    video = Video(uid, path, names, *(size or frame_size(path, names)))
    return [_sample(family, video, meta, *one) for one in read]


def _targets(
    family: Family, frames: Frames, expression: Any, where: str
) -> tuple[tuple[Target, ...], Size | None]:
    """The objects of an expression, and the size of the video, which the first mask says if nothing else has."""
    ids = family.ids(expression) if isinstance(expression, dict) else None
    targets: list[Target] = []
    for anno in ids or []:
        if family.store is not None:
            targets.append(family.store.target(frames, anno, where))
            frames = Frames(frames.uid, frames.names, frames.size or family.store.size(anno))
    return tuple(targets), frames.size


def _sample(
    family: Family,
    video: Video,
    meta: Meta,
    key: str,
    kind: str,
    expression: Meta,
    targets: tuple[Target, ...],
) -> Sample:
    notes = family.notes(video.uid, meta, expression)
    if family.store is None or family.ids(expression) is None:
        notes = replace(notes, hidden=True)
    query = family.clean(expression[family.text])
    return Sample(f"{video.uid}/{key}", video, query, targets, kind, notes)
