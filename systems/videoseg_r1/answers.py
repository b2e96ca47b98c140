"""Answers that list objects as boxes and points: one reading for masks, one for rewards.

A mask takes whatever can be read. A reward counts only what the published definitions count: strict
JSON with every key of every object. Results are in pixels of the target image, the image of the
`grid` in whose numbers the policy writes. Every function takes any text, and none raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from core.geometry import Grid
from core.parsing import block, find_records, json_value, loose_numbers, numbers
from core.types import MaskPrompt

# Objects of an answer and of the ground truth that count (VisionReasoner).
MAX_OBJECTS = 120


class ObjectRead(TypedDict):
    """One object of an answer; None or empty where nothing could be read."""

    box: list[float] | None
    point: list[float] | None
    negatives: list[list[float]]


def read_objects(text: str, grid: Grid) -> list[ObjectRead] | None:
    """Return the objects of an answer, or None if it is unreadable.

    Expected: <answer>[{"bbox_2d": [x0, y0, x1, y1], "point_2d": [x, y], "neg_point_2d": [x, y]},
    ...]</answer>, with x1 and y1 inside the box; JSON or Python quotes, fenced or not, also with
    words around it or quoted numbers; also "neg_points_2d" with a list of points. An object without
    box and point is left out. An answer without any object is unreadable, unless it is the empty
    list. At most 120 objects count.
    """
    body = block(text, "answer")
    if body is None:
        return None
    items = find_records(body)
    usable = []
    for found in objects_of_items(items, grid):
        if found["box"] or found["point"]:
            usable.append(found)
    is_empty_list = not items and re.sub(r"[\s`]|json", "", body) == "[]"
    if usable or is_empty_list:
        return usable
    return None


def objects_of_items(items: Sequence[Mapping[Any, Any]], grid: Grid) -> list[ObjectRead]:
    """Return the objects that the dictionaries of an answer describe, one for each."""
    objects: list[ObjectRead] = []
    for item in items[:MAX_OBJECTS]:
        box = loose_numbers(item.get("bbox_2d"), 4)
        point = loose_numbers(item.get("point_2d"), 2)
        points = []
        for written in _written_negatives(item):
            negative = loose_numbers(written, 2)
            if negative is not None:
                points.append(list(grid.to_pixels(negative)))
        objects.append(
            {
                "box": None if box is None else list(grid.to_pixels(box)),
                "point": None if point is None else list(grid.to_pixels(point)),
                "negatives": points,
            }
        )
    return objects


def mask_prompt(
    found: ObjectRead, frame: int, video_hw: tuple[int, int], target_hw: tuple[int, int]
) -> MaskPrompt | None:
    """Return the segmenter's prompt for one object, in pixels of the video.

    The box is cut at the frame's edges and points outside are dropped. None if neither a box with
    an area nor a point on the object is left.
    """
    height, width = video_hw
    target_height, target_width = target_hw
    scale_x = width / target_width
    scale_y = height / target_height
    box = _box_on_video(found["box"], video_hw, scale_x, scale_y)

    labelled = [(found["point"], 1)]
    for negative in found["negatives"]:
        labelled.append((negative, 0))
    points = []
    labels = []
    for point, label in labelled:
        if point and 0 <= point[0] < target_width and 0 <= point[1] < target_height:
            points.append((point[0] * scale_x, point[1] * scale_y))
            labels.append(label)

    if box is None and 1 not in labels:
        return None
    return MaskPrompt(frame, box, tuple(points), tuple(labels))


def strict_answer(text: str) -> Any | None:
    """Return the JSON value in the answer tags; None without tags, for other text, and for null."""
    body = block(text, "answer")
    if body is None:
        return None
    return _with_one_key(json_value(body))


def coordinates(
    answer: Any, grid: Grid, box: bool = True, point: bool = True
) -> list[tuple[float, ...]]:
    """Return box and point of every object, six numbers each, 0 for what is not asked for.

    As published, a single object without one of them, or with other values than finite numbers,
    leaves nothing of the whole answer.
    """
    if not isinstance(answer, list):
        return []
    items = []
    for item in answer:
        if not isinstance(item, dict):
            return []
        corners: tuple[float, ...] | None = (0.0,) * 4
        middle: tuple[float, ...] | None = (0.0,) * 2
        if box:
            corners = numbers(item.get("bbox_2d"), 4)
        if point:
            middle = numbers(item.get("point_2d"), 2)
        if corners is None or middle is None:
            return []
        items.append(grid.to_pixels(corners + middle))
    return items[:MAX_OBJECTS]


def negatives(answer: Any, grid: Grid) -> list[tuple[float, ...]]:
    """Return the readable negative points of all objects of an answer."""
    if not isinstance(answer, list):
        return []
    points = []
    for item in answer[:MAX_OBJECTS]:
        if isinstance(item, dict):
            for written in _written_negatives(item):
                point = numbers(written, 2)
                if point is not None:
                    points.append(grid.to_pixels(point))
    return points


def reasoning(text: str) -> str:
    """Return the text before the result: the thought, also without its tags."""
    before, _, _ = text.partition("<answer>")
    return before.replace("<think>", "").replace("</think>", "").strip()


def _box_on_video(
    box: list[float] | None, video_hw: tuple[int, int], scale_x: float, scale_y: float
) -> tuple[float, float, float, float] | None:
    """A box of the target image in pixels of the video, cut at the edges; None without an area."""
    if box is None:
        return None
    height, width = video_hw
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        return None
    # x1 and y1 are inside the box of an answer, and outside the box of a prompt.
    left = _clamp(x0 * scale_x, width)
    top = _clamp(y0 * scale_y, height)
    right = _clamp(x1 * scale_x + 1, width)
    bottom = _clamp(y1 * scale_y + 1, height)
    if right <= left or bottom <= top:
        return None
    return left, top, right, bottom


def _clamp(x: float, most: int) -> float:
    return min(max(x, 0.0), float(most))


def _with_one_key(answer: Any) -> Any:
    """The answer, with the first of "neg_points_2d" also under "neg_point_2d", for its form."""
    if not isinstance(answer, list):
        return answer
    items = []
    for item in answer:
        several = None
        if isinstance(item, dict) and "neg_point_2d" not in item:
            several = item.get("neg_points_2d")
        if isinstance(several, list) and several:
            item = item | {"neg_point_2d": several[0]}
        items.append(item)
    return items


def _written_negatives(item: Mapping[Any, Any]) -> list[Any]:
    """What stands for the negative points of one object, readable or not."""
    several = item.get("neg_points_2d")
    if isinstance(several, list):
        return several[:MAX_OBJECTS]
    return [item.get("neg_point_2d")]
