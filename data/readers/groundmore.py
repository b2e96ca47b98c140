"""Read GroundMoRe: questions about motion, each answered by one object while the action lasts.

    <root>/test_v2.json                                    or groundmore_test.json, or test.json
        {"videos": {video: {"questions": {id: {"question", "answer", "obj_id", "q_type",
                                               "action_start", "action_end"}}}}}
    <root>/annotations/<video>/images/<frame>.jpg          or <root>/<video>/images/
    <root>/annotations/<video>/masks/frame_000012.png      or 0000012.png: palette PNGs

A video is a clip of 6 frames a second. Its name ends in the clip's start and end within its source,
as in "..._0112_0124" (minutes and seconds), and "action_start" and "action_end" are times of the
same clock, as "01:14". Before and after the action the true mask is empty, and so it is without a
PNG. The PNGs are numbered from 0 in the order of the images' names, and the value of a pixel is
"obj_id". Without "obj_id" the ground truth is not public.

`Sample.kind` is the type of the question: Causal, Sequential, Counterfactual or Descriptive. The
official evaluation looks at 20 frames, evenly spread; the note `frames_listed` names them. In a
shorter clip it counts some of them twice, here each counts once.

Sources: dengandong/GroundMoRe, evaluate_groundmore.py; Dmmm1997/VideoSEG-O3, docs/DATA.md and
tools/eval/eval_groundmore.py.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.types import Notes, Sample, Target
from data.fields import Faults, inside, load_videos, splits_found, value
from data.frames.images import FRAME_SUFFIXES, is_hidden, visible
from data.masks.lazy import PartMasks
from data.masks.png_masks import PngMasks
from data.masks.stores import RELEASE, ListedFrames, Size
from data.readers.expressions import Format, Meta, find_images, notes_of, read_videos

KINDS = ("Causal", "Sequential", "Counterfactual", "Descriptive")
FILES = ("{}_v2.json", "groundmore_{}.json", "{}.json")
FPS = 6
# Frames of a clip in the official evaluation.
EVALUATED = 20
# Minutes and seconds of the start of a clip, then of its end.
CLIP = re.compile(r"(\d\d)(\d\d)_\d{4}$")
CLOCK = re.compile(r"\d+(:\d+){0,2}$")


def read_groundmore(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all questions of a split in the order of the file, with the note `object`.

    `uid` is "<video>/<question id>". The note `names` holds the answer in words.
    """
    root = Path(root)
    faults = faults or Faults()
    file = _file(root, split)
    videos: dict[str, Any] = {}
    for uid, meta in load_videos(file).items():
        with faults.noted():
            videos[uid] = _with_actions(root, file, uid, meta, faults)

    format = Format(
        file,
        lambda uid: _folder(root, file, uid),
        ActionStore(root, file),
        ids=lambda question: question["actions"],
        text="question",
        kind=lambda question: str(question["q_type"]),
        notes=_notes,
    )
    return [_with_frames_listed(sample) for sample in read_videos(format, videos, faults)]


def _file(root: Path, split: str) -> Path:
    for name in FILES:
        file = root / name.format(split)
        if file.is_file():
            return file
    found = splits_found(path.name for path in visible(root.glob("*.json")))
    names = ", ".join(name.format(split) for name in FILES)
    raise ValueError(f"{root}: none of {names} is there; it has {found} (data.root)")


def _folder(root: Path, file: Path, uid: str) -> str:
    """Return the folder of a clip's images."""
    places = (root / "annotations" / uid / "images", root / uid / "images")
    return find_images(places, file, uid)


def _with_actions(root: Path, file: Path, uid: str, meta: Any, faults: Faults) -> Meta:
    """Return the entry of a video with its frames, and its questions with their "actions".

    An action is the text "<object>@<start>-<stop>", a span of frames.
    """
    where = f"{file}: video {uid!r}"
    inside(uid, where, "its name")
    found = CLIP.search(uid)
    if found is None:
        raise ValueError(
            f'{where}: its name does not end in the start and end of its clip, as in "_0112_0124"'
        )
    clip_start = 60 * int(found[1]) + int(found[2])
    expressions: Meta = {}
    for key, question in value(meta, "questions", dict, where).items():
        its = f"{where}: question {key!r}"
        with faults.noted():
            actions = _actions(question, clip_start, its)
            expressions[key] = {**question, "q_type": _kind(question, its), "actions": actions}
    return {"frames": _frames(_folder(root, file, uid)), "expressions": expressions}


def _frames(folder: str) -> list[str]:
    """Return the names of a clip's frames, without their suffix, in the order of the evaluation."""
    names = []
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in FRAME_SUFFIXES and not is_hidden(name):
            names.append(stem)
    if not names:
        raise ValueError(f"{folder} holds no image: download the frames of this clip again")
    return names


def _kind(question: Any, where: str) -> str:
    kind: str = value(question, "q_type", str, where)
    if kind.capitalize() not in KINDS:
        raise ValueError(f'{where}: "q_type" is {kind!r:.60}, not one of {", ".join(KINDS)}')
    return kind.capitalize()


def _actions(question: Any, clip_start: int, where: str) -> list[str] | None:
    """Return the action of a question; None if it is not public."""
    start = FPS * (_seconds(question, "action_start", where) - clip_start)
    stop = FPS * (_seconds(question, "action_end", where) - clip_start)
    if stop < start:
        raise ValueError(f'{where}: "action_end" is before "action_start"')
    if "obj_id" not in question:
        return None
    obj = str(value(question, "obj_id", (int, str), where))
    if not obj.isdecimal() or not 0 < int(obj) < 256:
        raise ValueError(f'{where}: "obj_id" is {obj!r:.60}, not the number of an object, 1 to 255')
    return [f"{int(obj)}@{max(start, 0)}-{max(stop, 0)}"]


def _seconds(question: Any, key: str, where: str) -> int:
    """Return a time of the clock in seconds."""
    text: str = value(question, key, str, where)
    if not CLOCK.match(text.strip()):
        raise ValueError(f'{where}: "{key}" is {text!r:.60}, not a time such as "01:14"')
    seconds = 0
    for part in text.strip().split(":"):
        seconds = 60 * seconds + int(part)
    return seconds


@dataclass
class ActionStore:
    """The palette PNGs of all clips, each object for the span of an action."""

    root: Path
    file: Path

    def target(self, frames: ListedFrames, anno: str, where: str) -> Target:
        """Return an object during an action, given as "<object>@<start>-<stop>"."""
        obj, _, span = anno.partition("@")
        start, stop = (min(int(frame), len(frames.names)) for frame in span.split("-"))
        folder = Path(_folder(self.root, self.file, frames.uid)).with_name("masks")
        if not folder.is_dir():
            raise ValueError(
                f"{where} names object {obj!r}, but there is no folder {folder}/: {RELEASE}"
            )
        if frames.size is None:
            raise ValueError(
                f"{where}: no frame beside {folder}/ tells the size of its clip: "
                "download them again"
            )
        names = _mask_names(set(os.listdir(folder)), start, stop)
        height, width = frames.size
        masks_F = PngMasks(str(folder), names, int(obj), height, width, missing_is_none=True)
        return Target(f"{frames.uid}/{anno}", PartMasks(masks_F, start, len(frames.names)))

    def size(self, anno: str) -> Size | None:
        return None


def _mask_names(files: set[str], start: int, stop: int) -> tuple[str, ...]:
    """Return the names of the PNGs of some frames, in the first of the two published forms."""
    names = []
    for frame in range(start, stop):
        name = f"frame_{frame:06d}"
        if f"{name}.png" not in files:
            name = f"{frame:07d}"
        names.append(name)
    return tuple(names)


def _notes(uid: str, meta: Meta, question: Meta) -> Notes:
    answer = question.get("answer")
    names = (answer,) if isinstance(answer, str) and answer else ()
    return replace(notes_of(question), object=str(question.get("obj_id", "")), names=names)


def _with_frames_listed(sample: Sample) -> Sample:
    """Return the sample with a note of the frames to count."""
    names = sample.video.frame_names
    spread = np.linspace(0, len(names) - 1, EVALUATED, dtype=int)
    listed = tuple(dict.fromkeys(names[frame] for frame in spread))
    return replace(sample, notes=replace(sample.notes, frames_listed=listed))
