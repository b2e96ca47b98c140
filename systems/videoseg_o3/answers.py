"""Turns of VideoSEG-O3: what a text selects or answers, and whether it keeps its form.

    <think>...</think><select><VTG>{"start": 3, "end": 9, "keyframe": 5}</VTG><RefSeg>[SEG]</RefSeg>
    </select>

or the same body in <answer>. Frame numbers are those of the video. `end` is inclusive in the text;
a `Look` is half-open. Every function takes any text, and none raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.parsing import block, json_value, literal_value, search_records
from systems.videoseg_o3.traces import SEG, STEPS, Look

KEYS = ("start", "end", "keyframe")

_ACTION = re.compile(r"<(select|answer)>")
# The end of a thought, with nothing but white space between it and an action.
_SEAM = re.compile(r"</think>\s*<(select|answer)>")
_THINK = re.compile("<think>", re.IGNORECASE)
_END_OF_THINK = re.compile("</think>", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """The readable actions of a turn, None for each missing or unreadable one."""

    select: Look | None = None
    answer: Look | None = None

    @property
    def look(self) -> Look | None:
        """The result of an episode's last turn: a <select> with no turn after it is an answer."""
        return self.answer or self.select


def read_turn(
    text: str, num_frames: int, bare_json: bool = False, fill_keys: bool = False
) -> Reading:
    """Read the first <select> and the first <answer> after the thought.

    Strict JSON in <VTG> tags; with `bare_json` also without the tags. Numbers may be quoted and
    lose their fraction; start, end and keyframe are brought into the video. An end before its start
    is unreadable, and so is a missing key, unless `fill_keys` takes 0 for it. The release's rollout
    looks inside the thought as well.
    """
    after = _after_thought(text)
    select = _look(block(after, "select"), num_frames, bare_json, fill_keys)
    answer = _look(block(after, "answer"), num_frames, bare_json, fill_keys)
    return Reading(select, answer)


def read_last(text: str, num_frames: int) -> tuple[tuple[int, int], int]:
    """Return (start, end) and keyframe as the release's rewards read them.

    The last <select> or <answer> with a <VTG> in it, in the thought too. Python literals alone;
    every number that Python's `int` takes, 0 for a missing one. Start and end are brought into
    0..num_frames, the keyframe into the video. Unreadable: (0, 0) and -1.
    """
    found = literal_value(_last_look(text) or "")
    if not isinstance(found, dict):
        return (0, 0), -1
    numbers = []
    for key in KEYS:
        number = _as_int(found.get(key, 0))
        if number is None:
            return (0, 0), -1
        numbers.append(number)
    start, end, keyframe = numbers
    span = _bring_in(start, num_frames), _bring_in(end, num_frames)
    return span, _bring_in(keyframe, num_frames - 1)


def keeps_form(text: str) -> bool:
    """Return whether a turn has a thought and right after it an action in its full form.

    The full form has a <VTG> of strict JSON with all three keys, and a <RefSeg> with a [SEG]. Only
    white space may stand between the thought and the action; what surrounds them does not count.
    """
    body = _action_after_thought(text)
    if body is None:
        return False
    span = json_value(_inside(body, "VTG") or "")
    if not isinstance(span, dict) or any(key not in span for key in KEYS):
        return False
    return SEG in (_inside(body, "RefSeg") or "")


def is_answer(text: str) -> bool:
    """Return whether a turn answers, readably or not."""
    return block(_after_thought(text), "answer") is not None


def named_steps(text: str) -> int:
    """Return how many of the four steps the thought names; 0 without a thought.

    Capital letters make no difference, in the steps and in the tags of the thought.
    """
    opening = _THINK.search(text)
    if opening is None:
        return 0
    closing = _END_OF_THINK.search(text, opening.end())
    if closing is None:
        return 0
    thought = text[opening.end() : closing.start()].lower()
    return sum(step.lower() in thought for step in STEPS)


def _after_thought(text: str) -> str:
    return text.rpartition("</think>")[2]


def _action_after_thought(text: str) -> str | None:
    """The body of the first closed action that directly follows the end of a thought."""
    opening = text.find("<think>")
    if opening < 0:
        return None
    for seam in _SEAM.finditer(text, opening + len("<think>")):
        stop = text.find(f"</{seam[1]}>", seam.end())
        if stop >= 0:
            return text[seam.end() : stop]
    return None


def _last_look(text: str) -> str | None:
    """The first <VTG> of the last action that holds one; actions do not overlap."""
    last = None
    opening = _ACTION.search(text)
    while opening is not None:
        position = opening.end()
        found = _look_from(text, position, opening[1])
        if found is not None:
            last, position = found
        opening = _ACTION.search(text, position)
    return last


def _look_from(text: str, position: int, action: str) -> tuple[str, int] | None:
    """The first <VTG> from a position on, and where the action closes after it."""
    start = text.find("<VTG>", position)
    stop = text.find("</VTG>", start)
    end = text.find(f"</{action}>", stop)
    if min(start, stop, end) < 0:
        return None
    return text[start + len("<VTG>") : stop].strip(), end


def _inside(text: str, name: str) -> str | None:
    """The content of the first <name>...</name>, as written."""
    _, opened, after = text.partition(f"<{name}>")
    content, closed, _ = after.partition(f"</{name}>")
    return content if opened and closed else None


def _look(body: str | None, num_frames: int, bare_json: bool, fill_keys: bool) -> Look | None:
    """The look in the body of an action."""
    if body is None:
        return None
    span = block(body, "VTG")
    found: Any = None
    if span is not None:
        found = json_value(span)
    elif bare_json:
        found = next(iter(search_records(body)), None)
    numbers = _numbers(found, 0 if fill_keys else None)
    if numbers is None:
        return None

    last = num_frames - 1
    start = max(numbers[0], 0)
    end = min(numbers[1], last)
    keyframe = _bring_in(numbers[2], last)
    if end < start:
        return None
    return Look(start, end + 1, keyframe)


def _numbers(found: Any, missing: int | None) -> tuple[int, int, int] | None:
    """Start, end and keyframe of a dictionary; None unless all are numbers."""
    if not isinstance(found, Mapping):
        return None
    numbers = []
    for key in KEYS:
        written = found.get(key, missing)
        number = None if isinstance(written, bool) else _as_int(written)
        if number is None:
            return None
        numbers.append(number)
    start, end, keyframe = numbers
    return start, end, keyframe


def _as_int(written: Any) -> int | None:
    """What Python's `int` makes of a number or text; None where it raises."""
    try:
        return int(written)
    except (TypeError, ValueError, OverflowError):
        return None


def _bring_in(number: int, most: int) -> int:
    return min(max(number, 0), most)
