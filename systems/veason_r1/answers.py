"""Answers of Veason-R1: a keyframe and the boxes of the objects in it.

full   <think>...</think><answer>{"keyframe_timestamp": 3, "bbox_2d_list": [[4,8,31,42]]}</answer>
short  <think>...</think><answer>[{"frame_idx": 3,"boxes":[[4,8,31,42]]}]</answer>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.geometry import Box, Grid
from core.parsing import block, find_records, loose_integer, loose_numbers
from systems.base import clip_box

# More boxes than this make an answer unreadable: each of them is tracked through the video.
MAX_OBJECTS = 10

Form = Literal["full", "short"]


@dataclass(frozen=True)
class Found:
    """What an answer says.

    Attributes:
        place: index of the keyframe among the shown frames.
        boxes: in pixels of a shown frame, inside of it; some may have no area.
    """

    place: int
    boxes: tuple[Box, ...]


def read_answer(text: str, num_frames: int, grid: Grid, form: Form) -> Found | None:
    """Return what an answer says, or None if it is not readable. Never raises.

    In answer tags. JSON or Python quotes, fenced or not, also with words around it, with or without
    a list; numbers may be quoted. A keyframe that was not shown, a box of other than four numbers
    or more than 10 boxes are not readable.
    """
    body = block(text, "answer")
    rows = find_records(body) if body is not None else []
    if not rows:
        return None
    keyframe_key, boxes_key = _keys(form)
    place = loose_integer(rows[0].get(keyframe_key))
    listed = rows[0].get(boxes_key)
    if place is None or not 0 <= place < num_frames:
        return None
    if not isinstance(listed, list) or len(listed) > MAX_OBJECTS:
        return None
    boxes = []
    for corners in listed:
        box = loose_numbers(corners, 4)
        if box is None:
            return None
        boxes.append(clip_box(grid.to_pixels(box), grid.hw))
    return Found(place, tuple(boxes))


def write_answer(place: int, boxes: Sequence[Sequence[int]], form: Form) -> str:
    """Return the answer that `read_answer` reads, in its tags."""
    keyframe_key, boxes_key = _keys(form)
    if form == "full":
        row = {keyframe_key: place, boxes_key: [list(box) for box in boxes]}
        return f"<answer>{json.dumps(row)}</answer>"
    written = json.dumps([list(box) for box in boxes], separators=(",", ":"))
    # A space after the first key alone: these are whole tokens of the tiny policies.
    return f'<answer>[{{"{keyframe_key}": {place},"{boxes_key}":{written}}}]</answer>'


def _keys(form: Form) -> tuple[str, str]:
    if form == "full":
        return "keyframe_timestamp", "bbox_2d_list"
    return "frame_idx", "boxes"
