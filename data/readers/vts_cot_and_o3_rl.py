"""Read the two lists of VideoSEG-O3 over other data sets, laid out as its own folder `data/`.

    <root>/VTG-CoT/<split>.json (or VTS-CoT)        dialogues to start from:       `read_vts_cot`
    <root>/VideoSEG-O3-RL/rl_<split>_data.json      its samples for RL:            `read_o3_rl`
    <root>/video_datas/...                          images and masks, see SOURCES

`split` is the source: mevis, revos or longrvos. An item is {"video_name", "frames", "exp",
"anno_id"}. In VTS-CoT it also has "sample_frame_indice", "round_num", "cot_trace": [{"start_frame",
"end_frame", "key_frame"}] and "conversations": [{"from", "value"}]. The dialogue and its frames are
notes; its selections must be its "cot_trace". In the RL list an item is a list of records, the
first alone is used (as published), and it has "mask_existence", one for each frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.types import Notes, Sample
from data.fields import Faults, load_json, parsed_json, value
from data.masks.stores import RleStore
from data.readers.expressions import Format, Meta, find_images, notes_of, read_videos

# Folder of the videos and file of the masks by split, as VideoSEG-O3's authors converted them.
SOURCES = {
    "mevis": ("video_datas/mevis/train", "video_datas/mevis/train/mask_dict.json"),
    "revos": ("video_datas/revos", "video_datas/revos/mask_dict.json"),
    "longrvos": ("video_datas/Long-RVOS/train", "video_datas/Long-RVOS/train/mask_dict.json"),
}
SELECTED = re.compile(r"<select>\s*<VTG>(.*?)</VTG>", re.DOTALL)


def read_vts_cot(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all dialogues in the order of the file.

    `uid` is "<video>/<place in the file>", `kind` the source.
    """
    folder = Path(root) / "VTG-CoT"
    other = Path(root) / "VTS-CoT"
    if other.is_dir() and not folder.is_dir():
        folder = other
    file = folder / f"{split}.json"
    return _read_items(Path(root), split, file, _check_dialogue, faults or Faults())


def read_o3_rl(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all items in the order of the file.

    `uid` is "<video>/<place in the file>", `kind` the source.
    """
    file = Path(root) / "VideoSEG-O3-RL" / f"rl_{split}_data.json"
    return _read_items(Path(root), split, file, _check_existence, faults or Faults())


def _read_items(
    root: Path, split: str, file: Path, check: Callable[[Any, str], None], faults: Faults
) -> list[Sample]:
    if split not in SOURCES:
        raise ValueError(f"{file}: {split!r} is not a source; known: {', '.join(SOURCES)}")
    videos_name, masks_name = SOURCES[split]
    folder = root / videos_name

    def path_of(uid: str) -> str:
        folders = (folder / "JPEGImages" / uid, folder / uid)
        return find_images(folders, file, uid)

    format = Format(
        file, path_of, RleStore(root / masks_name), kind=lambda item: split, notes=_notes
    )
    samples: list[Sample] = []
    for i, item in enumerate(load_json(file, list)):
        where = f"{file}: item {i}"
        with faults.noted():
            record = _first_record(item, where)
            check(record, where)
            # A record is a video with one expression.
            video = {"frames": record["frames"], "expressions": {str(i): record}}
            samples += read_videos(format, {record["video_name"]: video}, faults)
    return samples


def _first_record(item: Any, where: str) -> Meta:
    """Return the record of an item, or the first one of its list, with its main fields checked."""
    record = item
    if isinstance(item, list):
        if not item:
            raise ValueError(f"{where} is an empty list: it needs one record")
        record = item[0]
    value(record, "video_name", str, where)
    value(record, "anno_id", (list, int, str), where)
    value(record, "frames", list, where)
    return dict(record)


def _notes(uid: str, meta: Meta, item: Meta) -> Notes:
    notes = notes_of(item)
    if "conversations" in item:
        notes = replace(notes, conversations=tuple(item["conversations"]))
    if "sample_frame_indice" in item:
        notes = replace(notes, sample_frame_indice=tuple(item["sample_frame_indice"]))
    return notes


def _check_existence(item: Any, where: str) -> None:
    """Raise ValueError unless "mask_existence" has one entry for each frame."""
    if "mask_existence" not in item:
        return
    entries = value(item, "mask_existence", list, where)
    num_frames = len(item["frames"])
    if len(entries) != num_frames:
        raise ValueError(
            f'{where}: "mask_existence" has {len(entries)} entries for {num_frames} frames'
        )


def _check_dialogue(item: Any, where: str) -> None:
    """Raise ValueError for unknown roles, missing frames, and selections off the trace."""
    num_frames = len(item["frames"])
    turns = value(item, "conversations", list, where)
    for turn in turns:
        role = value(turn, "from", str, f"{where}: conversations")
        value(turn, "value", str, f"{where}: conversations")
        if role not in ("system", "human", "gpt"):
            raise ValueError(
                f'{where}: conversations: "from" is {role!r}, not system, human or gpt'
            )
    for frame in value(item, "sample_frame_indice", list, where):
        _check_frame(frame, num_frames, f'{where}: "sample_frame_indice"')

    said = [turn["value"] for turn in turns if turn["from"] == "gpt"]
    for i, look in enumerate(value(item, "cot_trace", list, where)):
        its = f"{where}: cot_trace {i}"
        text = said[i] if i < len(said) else ""
        _check_look(look, text, num_frames, its)


def _check_look(look: Any, text: str, num_frames: int, where: str) -> None:
    """Check one entry of a trace, and the text of its turn."""
    start = value(look, "start_frame", int, where)
    end = value(look, "end_frame", int, where)
    keyframe = value(look, "key_frame", int, where)
    _check_frame(start, num_frames, f'{where}: "start_frame"')
    # The end is exclusive in short intervals and inclusive in long ones.
    _check_frame(end, num_frames + 1, f'{where}: "end_frame"')
    _check_frame(keyframe, num_frames, f'{where}: "key_frame"')

    trace = (start, end, keyframe)
    selected = _selection(text, where)
    if selected is not None and selected != trace:
        raise ValueError(
            f"{where} is {trace} (start, end, key frame), but the dialogue selects {selected}"
        )


def _check_frame(frame: Any, num_frames: int, where: str) -> None:
    if not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < num_frames:
        raise ValueError(f"{where} is {frame!r}, not a frame of 0 to {num_frames - 1}")


def _selection(text: str, where: str) -> tuple[int, int, int] | None:
    """Return the selection of a turn, (start, end, keyframe), or None."""
    found = SELECTED.search(text)
    if found is None:
        return None
    try:
        choice = parsed_json(found[1].encode())
    except ValueError as error:
        raise ValueError(
            f"{where}: the dialogue selects {found[1]!r:.80}, which is not JSON ({error})"
        ) from error
    start = value(choice, "start", int, where)
    end = value(choice, "end", int, where)
    return start, end, value(choice, "keyframe", int, where)
