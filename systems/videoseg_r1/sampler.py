"""The hierarchical, text-guided frame sampler of VideoSeg-R1 (AAAI 2026): which part of a video, and which frame of it.

It asks the policy on the side: several samples of the same question, averaged. Nothing it asks is trained, and the
reasoning that follows does not see it. First the part of the video that a query is about, again inside that part
while it is long; then the position of the target frame in it, in percent. How the questions are worded and every
number here is ours: the paper's appendix is not public.

This file knows no engine and no truth.
"""

from __future__ import annotations

import asyncio
import math
import re
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.geometry import uniform_frames
from core.parsing import block, numbers, records, search_records
from core.types import Ask, Turn, View

Mode = Literal["full", "random", "direct", "first"]

MIN_FRAMES = 8  # a part of no more frames is not narrowed down further
MIN_SHRINK = 0.1  # nor one that the last round made shorter by less than this share
_PERCENT = re.compile(r"(last\s+)?(\d{1,3}(?:\.\d{1,6})?)\s*%", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """How frames are sampled. `mode` is the paper's method or an ablation of it (Tab. 5)."""

    mode: Mode = "full"  # random: any frame of the part; direct: the position in the whole video; first: frame 0
    samples: int = 10  # K answers to each question
    top: int = 10  # M positions that are averaged
    delta: float = 0.3  # a part longer than this share of the video is narrowed down again
    rounds: int = 3  # at most
    frames: int = 16  # shown with each question
    height: int = 448
    width: int = 448
    max_tokens: int = 128
    temperature: float = 0.6
    top_p: float = 0.9
    prompt: Literal["full", "short"] = "full"  # short: for a policy trained on the short form


@dataclass(frozen=True)
class Choice:
    """The part [start, stop) of a video, the target frame in it, and the turns that it took to find them."""

    start: int
    stop: int
    frame: int
    turns: tuple[Turn, ...] = ()


class Choices:
    """Choices already made, by video, query and version of the weights; those who ask at the same time share one.

    Only who asked first gets the turns: each is played, counted and logged once.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self._kept: dict[tuple[str, str, int], asyncio.Future[Choice]] = {}

    async def get(self, key: tuple[str, str, int], make: Callable[[], Awaitable[Choice]]) -> Choice:
        if key in self._kept:
            return replace(await asyncio.shield(self._kept[key]), turns=())
        task = self._kept[key] = asyncio.ensure_future(make())
        while len(self._kept) > self.limit:
            del self._kept[next(iter(self._kept))]
        try:
            return await asyncio.shield(task)
        except BaseException:
            self._kept.pop(key, None)
            raise


async def choose(video: str, num_frames: int, query: str, ask: Ask, plan: Plan) -> Choice:
    """Part and target frame for `query` in the video named `video`; a video of one frame needs no question."""
    if num_frames == 1 or plan.mode == "first":
        return Choice(0, num_frames, 0)
    start = 0
    stop = num_frames
    turns = list[Turn]()
    if plan.mode != "direct":
        start, stop, turns = await _narrow(num_frames, query, ask, plan)
    if plan.mode == "random":
        seed = zlib.crc32(
            f"{video}\n{query}".encode("utf-8", "replace")
        )  # the same for all episodes of a sample
        return Choice(start, stop, start + seed % (stop - start), tuple(turns))
    answers = await _ask(ask, position_question(query, start, stop, plan), plan)
    positions = [p for turn in answers if (p := read_position(turn.text)) is not None]
    at = top_mean(positions, plan.top) if positions else 0.5
    return Choice(start, stop, frame_at(start, stop, at), (*turns, *answers))


async def _narrow(num_frames: int, query: str, ask: Ask, plan: Plan) -> tuple[int, int, list[Turn]]:
    """The part of the video: the mean of the sampled intervals, again while it is longer than delta x T."""
    start = 0
    stop = num_frames
    turns = list[Turn]()
    for _ in range(plan.rounds):
        answers = await _ask(ask, interval_question(query, start, stop, plan), plan)
        turns += answers
        spans = [
            span for turn in answers if (span := read_interval(turn.text, start, stop)) is not None
        ]
        if not spans:
            break
        before = stop - start
        start, stop = (_round(sum(ends) / len(spans)) for ends in zip(*spans, strict=True))
        length = stop - start
        if (
            length <= max(plan.delta * num_frames, MIN_FRAMES)
            or before - length < MIN_SHRINK * before
        ):
            break
    return start, stop, turns


async def _ask(ask: Ask, content: Sequence[str | View], plan: Plan) -> list[Turn]:
    """K independent answers to one question."""
    sampling = {"temperature": plan.temperature, "top_p": plan.top_p}
    one = (
        ask.auxiliary(content, max_tokens=plan.max_tokens, **sampling) for _ in range(plan.samples)
    )
    return list(await asyncio.gather(*one))


def read_interval(text: str, start: int, stop: int) -> tuple[int, int] | None:
    """The half-open part that an answer names, cut to [start, stop); None where it names none.

    Wanted: {"start": 3, "end": 12}, both frame numbers of the video, the end inside; in answer tags or not. An end
    before the start is unreadable. Any text is taken; nothing raises.
    """
    body = block(text, "answer")
    rows = records(body) if body is not None else search_records(text.rpartition("</think>")[2])
    ends = numbers([rows[0].get("start"), rows[0].get("end")], 2) if rows else None
    if ends is None or ends[1] < ends[0]:
        return None
    low, high = (min(max(x, float(start)), float(stop - 1)) for x in ends)
    return int(low), int(high) + 1


def read_position(text: str) -> float | None:
    """The position in [0, 1] that an answer gives in percent, "last 20%" from the end; None where it gives none."""
    body = block(text, "answer")
    found = _PERCENT.search(body if body is not None else text.rpartition("</think>")[2])
    if found is None:
        return None
    share = min(float(found[2]) / 100, 1.0)
    return 1 - share if found[1] else share


def top_mean(positions: Sequence[float], top: int) -> float:
    """Mean of the `top` answers given most often; of those given equally often the earliest positions come first."""
    often = Counter(positions)
    ranked = sorted(positions, key=lambda p: (-often[p], p))[:top]
    return math.fsum(ranked) / len(ranked)


def frame_at(start: int, stop: int, position: float) -> int:
    """Frame start + floor(length x position) of [start, stop), the last one for position 1."""
    return min(start + int((stop - start) * position), stop - 1)


def interval_question(query: str, start: int, stop: int, plan: Plan) -> list[str | View]:
    """What is asked for the part of the video: frames with their numbers, then the task."""
    if plan.prompt == "short":
        return [*_frames(start, stop, plan), f" Part with {query}?"]
    return [
        *_frames(start, stop, plan),
        f"\nThese frames are from a video, each after its number; the part shown has the frames {start} to "
        f'{stop - 1}. Which stretch of it does one have to watch to tell what "{query}" refers to, and to see it well? '
        f'Answer with the numbers of its first and last frame, as JSON: {{"start": {start}, "end": {stop - 1}}}.',
    ]


def position_question(query: str, start: int, stop: int, plan: Plan) -> list[str | View]:
    """What is asked for the target frame: frames of the part with their numbers, then the task."""
    if plan.prompt == "short":
        return [*_frames(start, stop, plan), f" Best view of {query}?"]
    return [
        *_frames(start, stop, plan),
        f"\nThese frames are from a stretch of a video, in order. At which position of the stretch is what "
        f'"{query}" refers to seen best: large, sharp and hardly covered? Answer with one of 0%, 10%, 20%, 30%, 40%, '
        "50%, 60%, 70%, 80%, 90%, 100%, where 0% is the first frame and 100% the last.",
    ]


def interval_answer(start: int, stop: int) -> str:
    """How the part [start, stop) is said: what `read_interval` reads."""
    return f'{{"start":{start},"end":{stop - 1}}}'


def position_answer(start: int, stop: int, frame: int) -> str:
    """How a frame of [start, stop) is said, to the nearest tenth: what `read_position` reads and `frame_at` takes."""
    return f"{10 * _round(10 * (frame - start) / (stop - start))}%"


def _frames(start: int, stop: int, plan: Plan) -> list[str | View]:
    content: list[str | View] = []
    for frame in uniform_frames(stop - start, plan.frames):
        name = f"{start + frame}" if plan.prompt == "short" else f"Frame {start + frame}:"
        content += [name, View(start + frame, plan.height, plan.width)]
    return content


def _round(x: float) -> int:
    return math.floor(x + 0.5)
