"""Answers of ReVSeg: a keyframe with a description, then a box. No function here ever raises.

The ideal answers:

    round 1   <think>...</think><answer>[{"frame_idx": 3, "object description": "red car"}]</answer>
    round 2   <answer>[{"bbox_2d": [104, 88, 331, 420], "label": "red car"}]</answer>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.geometry import Box
from core.parsing import block, integer, is_tagged, numbers, plain, records, search_records
from systems.base import clip_box


def read_keyframe(text: str, num_frames: int) -> tuple[int, str] | None:
    """Return (index into the sampled frames, description of the target), or None if unreadable.

    JSON or Python quotes, fenced or not; one dictionary with or without a list, of several the
    first (chosen by this project). An index outside of the frames or an empty description is
    unreadable.
    """
    body = block(text, "answer")
    items = records(body) if body is not None else []
    if not items:
        return None

    frame_idx = integer(items[0].get("frame_idx"))
    description = items[0].get("object description")
    if frame_idx is None or not 0 <= frame_idx < num_frames:
        return None
    if not isinstance(description, str) or not plain(description):
        return None
    return frame_idx, plain(description)


def read_box(text: str, hw: tuple[int, int], strict: bool = False) -> Box | None:
    """Return the box, clipped to an image of (height, width) `hw`, or None if unreadable.

    In answer tags, or bare unless `strict`. Of several boxes the largest counts (chosen by this
    project). A box without four finite numbers or without an area is unreadable.
    """
    body = block(text, "answer")
    if body is not None:
        items = records(body)
    elif not strict:
        items = search_records(_after_thought(text))
    else:
        return None

    boxes = []
    for item in items:
        box = _clip(item.get("bbox_2d"), hw)
        if box is not None:
            boxes.append(box)
    return max(boxes, key=_area, default=None)


def has_box_form(text: str, strict: bool = False) -> bool:
    """Return whether an answer of round 2 keeps its form.

    Think and answer tags; unless `strict` also the answer tags alone, or bare JSON. The paper's
    prompt and its text disagree, so both are right.
    """
    if is_tagged(text, ("think", "answer")):
        return True
    if strict:
        return False
    return is_tagged(text, ("answer",)) or bool(records(_after_thought(text)))


def whole_pixels(box: Sequence[float], hw: tuple[int, int]) -> list[int]:
    """Round a box to whole pixels of an image of `hw`, at least one pixel wide and high."""
    height, width = hw
    x0 = min(round(box[0]), width - 1)
    y0 = min(round(box[1]), height - 1)
    x1 = max(round(box[2]), x0 + 1)
    y1 = max(round(box[3]), y0 + 1)
    return [x0, y0, x1, y1]


def _after_thought(text: str) -> str:
    return text.rpartition("</think>")[2]


def _clip(item: Any, hw: tuple[int, int]) -> Box | None:
    """Return a box cut to the image; None if it is reversed, or nothing of it is inside."""
    corners = numbers(item, 4)
    if corners is None or corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None
    box = clip_box(corners, hw)
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    return box


def _area(box: Box) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)
