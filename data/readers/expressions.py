"""Formats with {"videos": {video: {"frames": [..], "expressions": {id: {..}}}}}.

A `Format` holds the differences between them: the places of images and masks, and the names of
fields. No pixel is decoded here: sizes come from the header of the first frame, and masks stay on
disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample, Target, Video
from data.fields import Faults, inside, texts, value
from data.frames.images import FRAME_SUFFIXES, frame_file, image_size, is_image
from data.frames.reading import frame_size
from data.masks.stores import ListedFrames, Size, Store

# An object of a JSON file.
Meta = dict[str, Any]


def anno_ids(expression: Meta, key: str = "anno_id") -> list[str] | None:
    """Return the ids of an expression's objects in order, each once; None if they are not public.

    Data sets write one number, a list of numbers, or texts.
    """
    ids = expression.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list):
        ids = [ids]
    return list(dict.fromkeys(str(anno) for anno in ids))


def notes_of(expression: Meta) -> Notes:
    """Return the notes that an expression of any format may carry."""
    names = expression.get("names")
    if not isinstance(names, list):
        names = []
    return Notes(
        thought=str(expression.get("thought") or ""),
        description=str(expression.get("description") or ""),
        names=tuple(str(name) for name in names),
        difficulty=expression.get("difficulty"),
        ratings=expression.get("ratings"),
    )


def _default_notes(uid: str, meta: Meta, expression: Meta) -> Notes:
    return notes_of(expression)


def _default_kind(expression: Meta) -> str:
    return str(expression.get("kind", ""))


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        file: The JSON file, for messages.
        path_of: Returns the path of a video's images, or raises a ValueError.
        store: The masks; None if the ground truth is not public.
        ids: Returns the ids of an expression's objects; None if they are not public.
        text: Field of the sentence.
        clean: Changes the sentence.
        kind: Returns `Sample.kind` of an expression.
        notes: Returns the notes of an expression, from the uid and the entry of its video.
        min_frames: Shorter videos are left out, as the published reader does.
        stride: `Video.stride` of all videos.
    """

    file: Path
    path_of: Callable[[str], str]
    store: Store | None
    ids: Callable[[Meta], list[str] | None] = anno_ids
    text: str = "exp"
    clean: Callable[[str], str] = str
    kind: Callable[[Meta], str] = _default_kind
    notes: Callable[[str, Meta, Meta], Notes] = _default_notes
    min_frames: int = 1
    stride: int = 1


def read_videos(format: Format, videos: Meta, faults: Faults) -> list[Sample]:
    """Return all expressions in the order of the file; `uid` is "<video>/<expression id>".

    An expression without public ground truth has the note `hidden`. Its empty `targets` do not mean
    an empty answer.
    """
    samples: list[Sample] = []
    for uid, meta in videos.items():
        with faults.noted():
            samples += _read_video(format, uid, meta, faults)
    return samples


def frame_names(meta: Any, where: str) -> tuple[str, ...]:
    """Return the names of a video's frames; ValueError if it lists none, or no names of files."""
    names = texts(meta, "frames", where)
    if not names:
        raise ValueError(f'{where}: "frames" is empty: list its frames, or take the video out')
    for name in names:
        inside(name, where, 'a name in "frames"')
    return names


def present_frames(
    path: str, names: tuple[str, ...], where: str, faults: Faults
) -> tuple[str, ...]:
    """Return the listed frames in a folder of images; for a video file, all of them.

    Raises:
        ValueError: A frame is missing; with `faults.frames_later`, all of them are.
    """
    if not os.path.isdir(path):
        return names
    files = set(os.listdir(path))
    stems = {os.path.splitext(file)[0] for file in files if is_image(file)}
    present: list[str] = []
    missing: list[str] = []
    for name in names:
        if name in stems or (name in files and is_image(name)):
            present.append(name)
        else:
            missing.append(name)
    if not missing or (faults.frames_later and present):
        return tuple(present)

    more = ""
    if len(missing) > 1:
        more = f", and {len(missing) - 1} more missing ones"
    raise ValueError(
        f'{path}/{missing[0]}{FRAME_SUFFIXES[0]} is missing: {where}: "frames" lists it{more}: '
        "download it again"
    )


def header_size(path: str, name: str) -> Size | None:
    """Return (height, width) of a frame in a folder, from its header; None for a video file.

    Raises:
        ValueError: The folder has something else under that name, or no readable image.
    """
    if not os.path.isdir(path):
        return None
    file = frame_file(path, name)
    if file is None:
        raise ValueError(
            f"{path}: {name!r} is a frame of the video, but no image has that name: "
            "download it again"
        )
    return image_size(file)


def find_images(folders: Iterable[Path], file: Path, uid: str) -> str:
    """Return the first existing one of these folders or video files.

    Raises:
        ValueError: None exists.
    """
    tried = list(folders)
    for place in tried:
        if place.exists():
            return str(place)

    names = []
    for place in tried:
        names.append(f"{place}" if place.suffix == ".mp4" else f"{place}/")
    there_is = "neither " + " nor ".join(names) if len(names) > 1 else f"no {names[0]}"
    raise ValueError(
        f"{file}: video {uid!r} is listed, but there is {there_is}: download its frames, or take "
        "it out of the file"
    )


def _read_video(format: Format, uid: str, meta: Any, faults: Faults) -> list[Sample]:
    where = f"{format.file}: video {uid!r}"
    inside(uid, where, "its name")
    names = frame_names(meta, where)
    expressions = value(meta, "expressions", dict, where)
    if len(names) < format.min_frames:
        return []

    path = format.path_of(uid)
    present = present_frames(path, names, where, faults)
    size: Size | None = None
    with faults.noted():
        size = header_size(path, present[0])

    # The samples are made after the loop: a mask may be the first to tell the size of the video.
    found: list[_Found] = []
    for key, expression in expressions.items():
        its = f"{where}: expression {key!r}"
        with faults.noted():
            inside(key, its, "its name")
            targets, size = _targets(format, ListedFrames(uid, names, size), expression, its)
            value(expression, format.text, str, its)
            kind = format.kind(expression)
            found.append(_Found(key, expression, targets, kind))
    return _samples(format, Video(uid, path, names, 0, 0, format.stride), size, meta, found)


@dataclass(frozen=True)
class _Found:
    """An expression, checked, with its objects."""

    key: str
    expression: Meta
    targets: tuple[Target, ...]
    kind: str


def _samples(
    format: Format, unsized: Video, size: Size | None, meta: Meta, found: Sequence[_Found]
) -> list[Sample]:
    """Return the samples of a video; only now a frame is decoded if its size is not yet known."""
    if not found:
        return []
    height, width = size or frame_size(unsized.path, unsized.frame_names)
    video = replace(unsized, height=height, width=width)
    return [_sample(format, video, meta, one) for one in found]


def _sample(format: Format, video: Video, meta: Meta, found: _Found) -> Sample:
    expression = found.expression
    notes = format.notes(video.uid, meta, expression)
    if format.store is None or format.ids(expression) is None:
        notes = replace(notes, hidden=True)
    query = format.clean(expression[format.text])
    uid = f"{video.uid}/{found.key}"
    return Sample(uid, video, query, found.targets, found.kind, notes)


def _targets(
    format: Format, frames: ListedFrames, expression: Any, where: str
) -> tuple[tuple[Target, ...], Size | None]:
    """Return the objects of an expression, and the size of the video as far as it is known now."""
    ids = format.ids(expression) if isinstance(expression, dict) else None
    if not ids or format.store is None:
        return (), frames.size

    targets: list[Target] = []
    for anno in ids:
        targets.append(format.store.target(frames, anno, where))
        if frames.size is None:
            frames = replace(frames, size=format.store.size(anno))
    return tuple(targets), frames.size
