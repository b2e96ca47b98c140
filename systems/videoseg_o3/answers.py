"""Turns of VideoSEG-O3: what a text selects or answers, and whether it keeps its form.

    <think>...</think><select><VTG>{"start": 3, "end": 9, "keyframe": 5}</VTG><RefSeg>[SEG]</RefSeg>
    </select>

or the same body in <answer>. Frame numbers are those of the video. `end` is inclusive in the text;
a `Look` is half-open. Every function takes any text, and none raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.parsing import block, json_value, search_records, value
from systems.videoseg_o3.traces import SEG, STEPS, Look

KEYS = ("start", "end", "keyframe")


@dataclass(frozen=True)
class Reading:
    """The readable actions of a turn, None for each missing or unreadable one."""

    select: Look | None = None
    answer: Look | None = None

    @property
    def look(self) -> Look | None:
        """The result of an episode's last turn: a <select> with no turn after it is an answer."""
        return self.answer or self.select


def read_turn(text: str, num_frames: int, bare_json: bool = False) -> Reading:
    """Read the first <select> and the first <answer> after the thought.

    Strict JSON in <VTG> tags; with `bare_json` also without the tags. Numbers lose their fraction,
    and start, end and keyframe are brought into the video. An end before its start is unreadable.
    The release's rollout looks inside the thought as well.
    """
    after = _after_thought(text)
    select = _look(block(after, "select"), num_frames, bare_json)
    answer = _look(block(after, "answer"), num_frames, bare_json)
    return Reading(select, answer)


def read_last(text: str, num_frames: int) -> tuple[tuple[int, int], int]:
    """Return (start, end) and keyframe as the release's rewards read them.

    The last <VTG> of the text, Python literals too, with start and end brought into 0..num_frames.
    (0, 0) if unreadable; -1 for an unreadable keyframe or one outside the video.
    """
    before, closed, _ = text.rpartition("</VTG>")
    _, opened, written = before.rpartition("<VTG>")
    if not closed or not opened:
        return (0, 0), -1
    numbers = _numbers(value(written))
    if numbers is None:
        return (0, 0), -1
    start = min(max(numbers[0], 0), num_frames)
    end = min(max(numbers[1], 0), num_frames)
    keyframe = numbers[2] if 0 <= numbers[2] < num_frames else -1
    return (start, end), keyframe


def keeps_form(text: str) -> bool:
    """Return whether a turn has a thought, then a <select> or <answer> in its full form.

    The full form has a <VTG> of strict JSON with all three keys, and a <RefSeg> with a [SEG].
    """
    before, closed, after = text.rpartition("</think>")
    if not closed or "<think>" not in before:
        return False
    body = block(after, "select")
    if body is None:
        body = block(after, "answer")
    if body is None:
        return False
    span = json_value(block(body, "VTG") or "")
    if not isinstance(span, dict) or any(key not in span for key in KEYS):
        return False
    return SEG in (block(body, "RefSeg") or "")


def is_answer(text: str) -> bool:
    """Return whether a turn answers, readably or not."""
    return block(_after_thought(text), "answer") is not None


def named_steps(text: str) -> int:
    """Return how many of the four steps the thought names, in any case; 0 without a thought."""
    thought = (block(text, "think") or "").lower()
    return sum(step.lower() in thought for step in STEPS)


def _after_thought(text: str) -> str:
    return text.rpartition("</think>")[2]


def _look(body: str | None, num_frames: int, bare_json: bool) -> Look | None:
    """The look in the body of an action."""
    if body is None:
        return None
    span = block(body, "VTG")
    found: Any = None
    if span is not None:
        found = json_value(span)
    elif bare_json:
        found = next(iter(search_records(body)), None)
    numbers = _numbers(found)
    if numbers is None:
        return None

    last = num_frames - 1
    start = max(numbers[0], 0)
    end = min(numbers[1], last)
    keyframe = min(max(numbers[2], 0), last)
    if end < start:
        return None
    return Look(start, end + 1, keyframe)


def _numbers(found: Any) -> tuple[int, int, int] | None:
    """Start, end and keyframe of a dictionary; None unless all are numbers."""
    if not isinstance(found, Mapping):
        return None
    numbers = []
    for key in KEYS:
        number = _whole(found.get(key))
        if number is None:
            return None
        numbers.append(number)
    start, end, keyframe = numbers
    return start, end, keyframe


def _whole(number: Any) -> int | None:
    """A number without its fraction, as the release's `int` does it; None for text."""
    if isinstance(number, bool):
        return None
    if isinstance(number, float):
        return int(number) if math.isfinite(number) else None
    return number if isinstance(number, int) else None
