"""Read your own data: a folder of videos and one JSON file for each split.

    <root>/<split>.json
    {"videos": {"kitchen": {
        "path": "clips/kitchen.mp4",
        "frames": ["00000", "00005"],
        "objects": {"cup": "masks/kitchen/cup", "jug": [{"size", "counts"}, null]},
        "expressions": [
            {"exp": "what is poured from", "objects": ["jug"], "kind": "reasoning"},
            {"exp": "the cup on the left", "objects": ["cup"]},
            {"exp": "a knife", "objects": []},
            {"exp": "the one that moves"}]
    }}}

    path           a video file, a folder of images, or one image; relative to <root>
    frames         optional, for a folder of images: the frames to use, in order (default: all)
    objects        optional: the masks of each object, in one of two forms:
                   - a folder of PNGs named as the frames (00000.png, ..): every pixel that is not
                     0 is the object, and without a PNG it is not visible in that frame
                   - a COCO run-length encoding or null for each frame
    without_mask   optional: "not visible" (the default), or "not labelled": then frames without a
                   mask of any object say nothing, are left out of the evaluation, and training
                   plays on the others alone
    expressions    "objects" names the answer; [] means that nothing fits, and without "objects" the
                   answer is not known. "kind" is a name for reports.

Without objects the data set serves for inference, with them for training and evaluation too. Frames
of a video file are named by their number: 00000, 00001 and so on. `python -m ray_jobs.prepare`
checks everything and lists all errors; reading stops at the first error.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.printable import printable
from core.types import Notes, Rle, Sample, Target, Video
from data.fields import Faults, inside, load_videos, optional, splits_found, texts, value
from data.frames.images import FRAME_SUFFIXES, IMAGE_SUFFIXES, stems_in, visible
from data.frames.probing import probe
from data.masks.png_masks import PngMasks
from data.masks.rle_entries import entries_of
from data.masks.sparse import looks_sparse, sparse_text
from data.readers.expressions import present_frames

log = logging.getLogger(__name__)

VIDEO_KEYS = ("path", "frames", "objects", "expressions", "without_mask")
# What a frame without a mask says about its objects.
WITHOUT_MASK = ("not visible", "not labelled")
EXPRESSION_KEYS = ("exp", "objects", "kind")
# Suffixes that stay in the name of a frame.
KEPT_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in FRAME_SUFFIXES)


def read_own(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions in the order of the file; `uid` is "<video>/<place in the list>"."""
    root = Path(root)
    faults = faults or Faults()
    file = root / f"{split}.json"
    if not file.is_file():
        found = splits_found(path.stem for path in visible(root.glob("*.json")))
        raise ValueError(f"{file}: no such file; splits in {root}: {found} (data.root)")

    samples: list[Sample] = []
    for uid, meta in load_videos(file).items():
        with faults.noted():
            samples += _read_video(root, uid, meta, f"{file}: video {uid!r}", faults)
    return samples


def _read_video(root: Path, uid: str, meta: Any, where: str, faults: Faults) -> list[Sample]:
    inside(uid, where, "its name")
    path = root / inside(value(meta, "path", str, where), where, '"path"')
    _refuse_unknown_keys(meta, VIDEO_KEYS, where)
    video = _video(uid, path, meta, where, faults)
    objects = _objects(root, video, meta, where, faults)
    listed = _labelled_frames(video, objects, meta, where)
    if listed is None:
        _point_at_sparse(objects, where)
    samples: list[Sample] = []
    for i, expression in enumerate(value(meta, "expressions", list, where)):
        with faults.noted():
            sample = _sample(video, i, expression, objects, f"{where}: expression {i}")
            unknown = listed is not None
            notes = replace(sample.notes, frames_listed=listed, others_unknown=unknown)
            samples.append(replace(sample, notes=notes))
    return samples


def _point_at_sparse(objects: dict[str, Target | None], where: str) -> None:
    """Warn of masks on every few frames: an empty answer would be right on all others."""
    for target in objects.values():
        if target is None:
            continue
        labelled = frames_with_file(target)
        with_mask_F = [frame in labelled for frame in range(len(target.masks_F))]
        if looks_sparse(with_mask_F):
            log.warning("%s: %s", printable(where), printable(sparse_text(target.uid, with_mask_F)))
            return


def _labelled_frames(
    video: Video, objects: dict[str, Target | None], meta: Any, where: str
) -> tuple[str, ...] | None:
    """Return the frames that say something about the objects; None for all."""
    word = optional(meta, "without_mask", str, where, default=WITHOUT_MASK[0])
    if word not in WITHOUT_MASK:
        known = " or ".join(repr(one) for one in WITHOUT_MASK)
        raise ValueError(f'{where}: "without_mask" is {word!r:.60}, not {known}')
    if word == WITHOUT_MASK[0]:
        return None

    labelled: set[int] = set()
    for target in objects.values():
        if target is not None:
            labelled |= frames_with_file(target)
    if objects and not labelled:
        raise ValueError(f'{where}: "without_mask" is {word!r}, but no frame has a mask')
    return tuple(name for frame, name in enumerate(video.frame_names) if frame in labelled)


def frames_with_file(target: Target) -> set[int]:
    """Return the numbers of the frames for which the data set has a mask, an empty one too."""
    masks_F = target.masks_F
    if not isinstance(masks_F, PngMasks):
        return {frame for frame, rle in enumerate(masks_F) if rle is not None}
    stems = stems_in(masks_F.folder, ".png")
    return {frame for frame, stem in enumerate(masks_F.names_F) if stem in stems}


def _video(uid: str, path: Path, meta: Any, where: str, faults: Faults) -> Video:
    """Return a video with the frames of its file or folder, or with the listed ones."""
    try:
        found = probe(path)
    except ValueError as error:
        raise ValueError(f'{where}: "path": {error}') from error

    # Masks and predictions are named without these suffixes.
    names = tuple(_without_frame_suffix(name) for name in found.frame_names)
    if len(set(names)) < len(names):
        raise ValueError(
            f"{where}: images of {path} differ in their suffix alone: give each its own name"
        )
    if "frames" in meta:
        names = _listed_frames(path, meta, where, faults)
    return Video(uid, found.path, names, found.height, found.width)


def _listed_frames(path: Path, meta: Any, where: str, faults: Faults) -> tuple[str, ...]:
    if not path.is_dir():
        raise ValueError(
            f'{where}: "frames" is for a folder of images, but {path} is a file: take it out'
        )
    names = texts(meta, "frames", where)
    if not names:
        raise ValueError(
            f'{where}: "frames" is empty: list frames, or take it out to use all images'
        )
    for name in names:
        inside(name, where, 'a name in "frames"')
    present_frames(str(path), names, where, faults)
    return names


def _objects(
    root: Path, video: Video, meta: Any, where: str, faults: Faults
) -> dict[str, Target | None]:
    """Return the objects of a video by name; None for one with an error."""
    listed = optional(meta, "objects", dict, where, default={})
    objects: dict[str, Target | None] = {}
    for name, masks in listed.items():
        objects[name] = None
        its = f"{where}: object {name!r}"
        # An object with an error stays known, so that expressions may name it.
        with faults.noted():
            if isinstance(masks, str):
                folder = root / inside(masks, its, "its folder of masks")
                objects[name] = _target_of_folder(folder, video, name, its)
            else:
                objects[name] = _target_of_list(masks, video, name, its)
    return objects


def _target_of_folder(folder: Path, video: Video, name: str, where: str) -> Target:
    if not folder.is_dir():
        raise ValueError(
            f"{where}: there is no folder {folder}/: name one with a PNG for each frame"
        )
    stems = []
    for name_of_frame in video.frame_names:
        if name_of_frame.lower().endswith(KEPT_SUFFIXES):
            name_of_frame = name_of_frame.rpartition(".")[0]
        stems.append(name_of_frame)

    found = stems_in(folder, ".png")
    strange = sorted(found - set(stems))
    if strange or not found:
        what = f"{strange[0]}.png, which is no frame" if strange else "no PNG"
        raise ValueError(
            f"{where}: {folder} holds {what}: its PNGs are named as the frames, {stems[0]}.png and "
            "so on"
        )
    masks_F = PngMasks(
        str(folder), tuple(stems), None, video.height, video.width, missing_is_none=True
    )
    return Target(f"{video.uid}/{name}", masks_F)


def _target_of_list(masks: Any, video: Video, name: str, where: str) -> Target:
    entry, counts_F = entries_of(name, masks)
    if entry.problem:
        raise ValueError(f"{where}: {entry.problem}")
    if entry.num_frames != video.num_frames:
        raise ValueError(
            f"{where} has {entry.num_frames} masks, but its video {video.num_frames} frames"
        )
    if entry.num_masks and (entry.height, entry.width) != (video.height, video.width):
        raise ValueError(
            f'{where}: "size" is {entry.height} x {entry.width}, but its frames {video.height} x '
            f"{video.width}"
        )

    masks_F: list[Rle | None] = []
    for counts in counts_F:
        if counts is None:
            masks_F.append(None)
        else:
            masks_F.append({"size": [video.height, video.width], "counts": counts})
    return Target(f"{video.uid}/{name}", tuple(masks_F))


def _sample(
    video: Video, i: int, expression: Any, objects: dict[str, Target | None], where: str
) -> Sample:
    query = value(expression, "exp", str, where)
    _refuse_unknown_keys(expression, EXPRESSION_KEYS, where)
    if not query.strip():
        raise ValueError(f'{where}: "exp" is empty: say what to find')

    named = texts(expression, "objects", where) if "objects" in expression else ()
    targets = []
    for name in named:
        if name not in objects:
            raise ValueError(
                f'{where}: "objects" names {name!r}; the video has {", ".join(objects) or "none"}'
            )
        target = objects[name]
        if target is not None:
            targets.append(target)

    kind = optional(expression, "kind", str, where, default="")
    notes = Notes(hidden="objects" not in expression)
    return Sample(f"{video.uid}/{i}", video, query, tuple(targets), kind, notes)


def _refuse_unknown_keys(mapping: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")


def _without_frame_suffix(name: str) -> str:
    for suffix in FRAME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
