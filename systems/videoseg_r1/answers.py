"""Answers that list objects as boxes and points: reading them for masks, and for rewards.

Two readings, because they want different things: a mask takes whatever can be made out, a reward only what the
published definitions count (strict JSON, every key of every object). Coordinates stay in the pixels of the image that
was asked about. This file knows no image, no truth and no prompt; every function takes any text and none raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from core.parsing import block, json_value, numbers, records

MAX_OBJECTS = 120  # of an answer and of the truth; VisionReasoner's


def read_objects(text: str) -> list[dict[str, Any]] | None:
    """The objects of an answer as {"box", "point", "negatives"}, or None where it is unreadable.

    Wanted: <answer>[{"bbox_2d": [x0, y0, x1, y1], "point_2d": [x, y], "neg_point_2d": [x, y]}, ...]</answer>, with x1
    and y1 inside the box. JSON or Python quotes, fenced or not, also "neg_points_2d" with a list of points. What of an
    object cannot be read is None or left out; an object of which nothing can be read is left out, and an answer of
    which nothing can be read is unreadable, unless it is the empty list. At most 120 objects. Nothing raises.
    """
    body = block(text, "answer")
    if body is None:
        return None
    rows = records(body)
    usable = [o for o in rows_as_read(rows) if o["box"] or o["point"]]
    empty = not rows and re.sub(r"[\s`]|json", "", body) == "[]"
    return usable if usable or empty else None


def rows_as_read(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """The objects that the dictionaries of an answer describe, in the form of `read_objects`."""
    return [
        {
            "box": _floats(row.get("bbox_2d"), 4),
            "point": _floats(row.get("point_2d"), 2),
            "negatives": _off(row),
        }
        for row in rows[:MAX_OBJECTS]
    ]


def strict_answer(text: str) -> Any | None:
    """The JSON value in the answer tags of a text; None without tags, for anything but JSON, and for null."""
    body = block(text, "answer")
    return None if body is None else _with_one_key(json_value(body))


def coordinates(answer: Any, box: bool = True, point: bool = True) -> list[tuple[float, ...]]:
    """Box and point of every object of an answer, six numbers each, 0 for what is not asked.

    One object that lacks one of them, or not of finite numbers, makes all of the answer worth nothing, as published.
    """
    rows = []
    for row in answer if isinstance(answer, list) else ():
        if not isinstance(row, dict):
            return []
        corners = numbers(row.get("bbox_2d"), 4) if box else (0.0,) * 4
        at = numbers(row.get("point_2d"), 2) if point else (0.0,) * 2
        if corners is None or at is None:
            return []
        rows.append(corners + at)
    return rows[:MAX_OBJECTS]


def negatives(answer: Any) -> list[tuple[float, ...]]:
    """The readable negative points of an answer, over all its objects."""
    rows = answer if isinstance(answer, list) else []
    return [
        tuple(point) for row in rows[:MAX_OBJECTS] if isinstance(row, dict) for point in _off(row)
    ]


def reasoning(text: str) -> str:
    """What an answer says before its result: the thought, also where its tags are missing."""
    return text.partition("<answer>")[0].replace("<think>", "").replace("</think>", "").strip()


def _with_one_key(answer: Any) -> Any:
    """`answer` with the first of "neg_points_2d" under "neg_point_2d" as well, for the form."""
    if not isinstance(answer, list):
        return answer
    several = [
        isinstance(row, dict) and "neg_point_2d" not in row and row.get("neg_points_2d")
        for row in answer
    ]
    pairs = zip(answer, several, strict=True)
    return [
        row | {"neg_point_2d": more[0]} if isinstance(more, list) and more else row
        for row, more in pairs
    ]


def _off(row: Mapping[Any, Any]) -> list[list[float]]:
    """The readable negative points of one object."""
    several = row.get("neg_points_2d")
    written = several[:MAX_OBJECTS] if isinstance(several, list) else [row.get("neg_point_2d")]
    return [point for entry in written if (point := _floats(entry, 2)) is not None]


def _floats(entry: Any, count: int) -> list[float] | None:
    found = numbers(entry, count)
    return None if found is None else list(found)
