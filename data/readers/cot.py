"""Reads the two lists that VideoSEG-O3 released over other data sets, from a folder laid out as its own `data/`.

    <root>/VTG-CoT/<split>.json (or VTS-CoT)        dialogues to start from:       `read_vts_cot`
    <root>/VideoSEG-O3-RL/rl_<split>_data.json      what it was trained on by RL:  `read_o3_rl`
    <root>/video_datas/...                          images and masks, see SOURCES

`split` is the source: mevis, revos or longrvos. An item is {"video_name", "frames", "exp", "anno_id"} and, in VTS-CoT,
"sample_frame_indice", "round_num", "cot_trace": [{"start_frame", "end_frame", "key_frame"}] and "conversations":
[{"from", "value"}]; in the RL list it stands in a list of records, of which the first alone is used (as published), and
has "mask_existence", one for each frame. The dialogue and its frames are notes. What it selects must be its
"cot_trace".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.masks.stores import RleStore
from data.readers.expressions import Family, Meta, find_images, read_videos
from data.readers.fields import Faults, load_json, value

SOURCES = {  # split: folder of the videos, file of the masks; the conversion of VideoSEG-O3's authors
    "mevis": ("video_datas/mevis/train", "video_datas/mevis/train/mask_dict.json"),
    "revos": ("video_datas/revos", "video_datas/revos/mask_dict.json"),
    "longrvos": ("video_datas/Long-RVOS/train", "video_datas/Long-RVOS/train/mask_dict.json"),
}
SELECTED = re.compile(r"<select>\s*<VTG>(.*?)</VTG>", re.DOTALL)


def read_vts_cot(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All dialogues, in the order of the file; `uid` is "<video>/<place in the file>", `kind` the source."""
    folders = [Path(root) / name for name in ("VTG-CoT", "VTS-CoT")]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return _read(Path(root), split, folder / f"{split}.json", _check_dialogue, faults or Faults())


def read_o3_rl(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All items, in the order of the file; `uid` is "<video>/<place in the file>", `kind` the source."""
    file = Path(root) / "VideoSEG-O3-RL" / f"rl_{split}_data.json"
    return _read(Path(root), split, file, _check_existence, faults or Faults())


def _read(
    root: Path, split: str, file: Path, check: Callable[[Any, str], None], faults: Faults
) -> list[Sample]:
    if split not in SOURCES:
        raise ValueError(f"{file}: {split!r} is not a source; known: {', '.join(SOURCES)}")
    folder = root / SOURCES[split][0]
    masks = root / SOURCES[split][1]
    family = Family(
        file,
        lambda uid: find_images((folder / "JPEGImages" / uid, folder / uid), file, uid),
        RleStore(masks),
        kind=lambda item: split,
        notes=_notes,
    )
    samples: list[Sample] = []
    for i, item in enumerate(load_json(file, list)):
        where = f"{file}: item {i}"
        with faults.noted():
            if isinstance(item, list):
                if not item:
                    raise ValueError(f"{where} is an empty list: it needs one record")
                item = item[0]
            name = value(item, "video_name", str, where)
            value(item, "anno_id", (list, int, str), where)
            frames = value(item, "frames", list, where)
            check(item, where)
            samples += read_videos(
                family, {name: {"frames": frames, "expressions": {str(i): item}}}, faults
            )
    return samples


def _notes(uid: str, meta: Meta, item: Meta) -> Notes:
    conversations = item.get("conversations")
    frames = item.get("sample_frame_indice")
    return Notes(
        conversations=None if conversations is None else tuple(conversations),
        sample_frame_indice=None if frames is None else tuple(frames),
    )


def _check_existence(item: Any, where: str) -> None:
    existence = (
        value(item, "mask_existence", list, where) if "mask_existence" in item else item["frames"]
    )
    if len(existence) != len(item["frames"]):
        raise ValueError(
            f'{where}: "mask_existence" has {len(existence)} entries for {len(item["frames"])} frames'
        )


def _check_dialogue(item: Any, where: str) -> None:
    """Frames that exist, roles that are known, and rounds that select what the trace says."""
    frames = len(item["frames"])
    turns = value(item, "conversations", list, where)
    for turn in turns:
        role = value(turn, "from", str, f"{where}: conversations")
        value(turn, "value", str, f"{where}: conversations")
        if role not in ("system", "human", "gpt"):
            raise ValueError(
                f'{where}: conversations: "from" is {role!r}, not system, human or gpt'
            )
    for frame in value(item, "sample_frame_indice", list, where):
        _check_frame(frame, frames, f'{where}: "sample_frame_indice"')
    said = [turn["value"] for turn in turns if turn["from"] == "gpt"]
    for i, one in enumerate(value(item, "cot_trace", list, where)):
        its = f"{where}: cot_trace {i}"
        start, end, key = (
            value(one, name, int, its) for name in ("start_frame", "end_frame", "key_frame")
        )
        _check_frame(start, frames, f'{its}: "start_frame"')
        _check_frame(
            end, frames + 1, f'{its}: "end_frame"'
        )  # exclusive in short intervals, inclusive in long ones
        _check_frame(key, frames, f'{its}: "key_frame"')
        selected = _selected(said[i], its) if i < len(said) else None
        if selected is not None and selected != (start, end, key):
            trace = (start, end, key)
            raise ValueError(
                f"{its} is {trace} (start, end, key frame), but the dialogue selects {selected}"
            )


def _check_frame(frame: Any, frames: int, where: str) -> None:
    if not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < frames:
        raise ValueError(f"{where} is {frame!r}, not a frame of 0 to {frames - 1}")


def _selected(text: str, where: str) -> tuple[Any, ...] | None:
    """(start, end, keyframe) that a turn selects; None if it selects nothing."""
    found = SELECTED.search(text)
    if found is None:
        return None
    try:
        choice = json.loads(found[1])
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: the dialogue selects {found[1]!r:.80}, which is not JSON ({error})"
        ) from error
    return tuple(value(choice, name, int, where) for name in ("start", "end", "keyframe"))
