"""Answers of ReVSeg: a keyframe with a description, then a box. No function here ever raises.

The ideal answers:

    round 1   <think>...</think><answer>[{"frame_idx": 3, "object description": "red car"}]</answer>
    round 2   <answer>[{"bbox_2d": [104, 88, 331, 420], "label": "red car"}]</answer>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.geometry import Box, Grid
from core.parsing import (
    block,
    find_records,
    is_tagged,
    loose_integer,
    loose_numbers,
    plain,
    records,
    search_records,
)
from systems.base import clip_box

# The paper's key, and what a policy makes of it.
DESCRIPTION = ("object description", "object_description", "description")


def read_keyframe(text: str, num_frames: int) -> tuple[int, str] | None:
    """Return (index into the sampled frames, description of the target), or None if unreadable.

    In answer tags. JSON or Python quotes, fenced or not, also with words around it; one dictionary
    with or without a list, of several the first; the index may be quoted, and the key of the
    description is one of DESCRIPTION (all chosen by this project). An index outside of the frames
    or an empty description is unreadable.
    """
    body = block(text, "answer")
    items = find_records(body) if body is not None else []
    if not items:
        return None

    frame_idx = loose_integer(items[0].get("frame_idx"))
    keys = [key for key in DESCRIPTION if key in items[0]]
    description = items[0][keys[0]] if keys else None
    if frame_idx is None or not 0 <= frame_idx < num_frames:
        return None
    if not isinstance(description, str) or not plain(description):
        return None
    return frame_idx, plain(description)


def read_box(text: str, grid: Grid, strict: bool = False) -> Box | None:
    """Return the box in pixels, clipped to the image of `grid`, or None if unreadable.

    In answer tags, or bare unless `strict`. Of several boxes the largest counts (chosen by this
    project). A box without four finite numbers, quoted or not, or without an area is unreadable.
    """
    body = block(text, "answer")
    if body is not None:
        items = find_records(body)
    elif not strict:
        items = search_records(_after_thought(text))
    else:
        return None

    boxes = []
    for item in items:
        box = _clip(item.get("bbox_2d"), grid)
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


def whole_box(box: Sequence[float], grid: Grid) -> list[int]:
    """Return a box in pixels as the policy writes it: whole numbers, at least 1 wide and high."""
    height, width = grid.size
    left, top, right, bottom = (round(number) for number in grid.from_pixels(box))
    x0 = min(left, width - 1)
    y0 = min(top, height - 1)
    x1 = max(right, x0 + 1)
    y1 = max(bottom, y0 + 1)
    return [x0, y0, x1, y1]


def _after_thought(text: str) -> str:
    return text.rpartition("</think>")[2]


def _clip(item: Any, grid: Grid) -> Box | None:
    """Return a box cut to the image; None if it is reversed, or nothing of it is inside."""
    corners = loose_numbers(item, 4)
    if corners is None or corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None
    box = clip_box(grid.to_pixels(corners), grid.hw)
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    return box


def _area(box: Box) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)
