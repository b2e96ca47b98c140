"""Turns of VideoSEG-O3: what a text selects or answers, and whether it keeps the form.

    <think>...</think><select|answer><VTG>{"start": 3, "end": 9, "keyframe": 5}</VTG><RefSeg>[SEG]</RefSeg></...>

Both actions have the same body. Frame numbers are those of the video and `end` is inclusive in the text; a `Look` is
half-open. Every function takes any text and none raises. This file knows no frame budget, no reward and no model.
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
    """What a turn asks to see and what it answers; None where it does not, or not readably."""

    select: Look | None = None
    answer: Look | None = None

    @property
    def look(self) -> Look | None:
        """What the last turn of an episode says: a <select> that nothing follows counts as an answer."""
        return self.answer or self.select


def read_turn(text: str, num_frames: int, bare_json: bool = False) -> Reading:
    """The first <select> and the first <answer> after the thought, much as the rollout of the release reads them (it
    looks in the thought, too).

    Strict JSON in <VTG> tags, with `bare_json` also without them; numbers are cut off to whole ones, start, end and
    keyframe are brought into the video. An end before its start is not readable.
    """
    said = text.rpartition("</think>")[2]
    select, answer = (
        _look(block(said, tag), num_frames, bare_json) for tag in ("select", "answer")
    )
    return Reading(select, answer)


def read_last(text: str, num_frames: int) -> tuple[tuple[int, int], int]:
    """(start, end) and keyframe as the rewards of the release read them: the last <VTG> of the text, Python literals
    too, start and end brought into 0..num_frames; (0, 0) and -1 where unreadable or, a keyframe, outside the video.
    """
    before, closed, _ = text.rpartition("</VTG>")
    _, opened, written = before.rpartition("<VTG>")
    numbers = _numbers(value(written)) if closed and opened else None
    if numbers is None:
        return (0, 0), -1
    start, end = (min(max(n, 0), num_frames) for n in numbers[:2])
    return (start, end), numbers[2] if 0 <= numbers[2] < num_frames else -1


def keeps_form(text: str) -> bool:
    """Whether a turn has a thought, then a <select> or <answer> with a <VTG> of strict JSON that has all three keys,
    and a <RefSeg> with a [SEG]."""
    before, closed, said = text.rpartition("</think>")
    body = next((b for tag in ("select", "answer") if (b := block(said, tag)) is not None), None)
    if not closed or "<think>" not in before or body is None:
        return False
    span = json_value(block(body, "VTG") or "")
    return (
        isinstance(span, dict)
        and all(key in span for key in KEYS)
        and SEG in (block(body, "RefSeg") or "")
    )


def is_answer(text: str) -> bool:
    """Whether a turn answers, readably or not."""
    return block(text.rpartition("</think>")[2], "answer") is not None


def named_steps(text: str) -> int:
    """How many of the four steps the thought names, in any case; 0 without a thought."""
    thought = (block(text, "think") or "").lower()
    return sum(step.lower() in thought for step in STEPS)


def _look(body: str | None, num_frames: int, bare_json: bool) -> Look | None:
    if body is None:
        return None
    span = block(body, "VTG")
    found: Any = json_value(span) if span is not None else None
    if span is None and bare_json:
        found = next(iter(search_records(body)), None)
    numbers = _numbers(found)
    if numbers is None:
        return None
    last = num_frames - 1
    start = max(numbers[0], 0)
    end = min(numbers[1], last)
    keyframe = min(max(numbers[2], 0), last)
    return Look(start, end + 1, keyframe) if end >= start else None


def _numbers(found: Any) -> tuple[int, int, int] | None:
    if not isinstance(found, Mapping):
        return None
    start, end, keyframe = (_whole(found.get(key)) for key in KEYS)
    return None if start is None or end is None or keyframe is None else (start, end, keyframe)


def _whole(number: Any) -> int | None:
    """A number without its fraction, as `int` of the release does it; a text that spells one is none."""
    if isinstance(number, float):
        return int(number) if math.isfinite(number) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None
