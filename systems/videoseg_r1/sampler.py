"""The hierarchical, text-guided frame sampler of VideoSeg-R1: a key segment and a target frame.

It asks the policy auxiliary questions, several times each, and averages the answers. First for the
segment that a query is about, again inside that segment while it is long; then for the position of
the target frame in it, in percent. Nothing here is trained, and the reasoning that follows does not
see it. The wording and all numbers are chosen by this project (docs/spec/videoseg_r1.md, Frame
sampler).
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
from core.types import Ask, Turn
from systems.base import Content, show_frames

SamplerMode = Literal["full", "random", "direct", "first"]

# A segment of no more frames is not narrowed further.
MIN_FRAMES = 8
# Narrowing ends when a round makes the segment shorter by less than this share.
MIN_SHRINK = 0.1

_PERCENT = re.compile(r"(last\s+)?(\d{1,3}(?:\.\d{1,6})?)\s*%", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """How frames are sampled.

    Attributes:
        mode: "full", or an ablation (Tab. 5). "random": any frame of the segment. "direct": the
            position in the whole video. "first": frame 0.
        samples: K, answers to each question.
        top: M, positions in the mean.
        delta: a segment longer than this share of the video is narrowed again.
        rounds: most rounds of narrowing.
        frames: frames shown with each question.
        height: of these frames, in pixels.
        width: of these frames, in pixels.
        max_tokens: of an answer.
        temperature: of the answers.
        top_p: of the answers.
        prompt: wording; "short" is for a policy taught the short form.
    """

    mode: SamplerMode = "full"
    samples: int = 10
    top: int = 10
    delta: float = 0.3
    rounds: int = 3
    frames: int = 16
    height: int = 448
    width: int = 448
    max_tokens: int = 128
    temperature: float = 0.6
    top_p: float = 0.9
    prompt: Literal["full", "short"] = "full"


@dataclass(frozen=True)
class Choice:
    """A key segment [start, stop), the target frame in it, and the turns that found them."""

    start: int
    stop: int
    frame: int
    turns: tuple[Turn, ...] = ()


# Video, query and version of the weights.
ChoiceKey = tuple[str, str, int]


class Choices:
    """A cache of choices by video, query and weight version.

    Episodes that ask at the same time share one choice. Only the first of them gets the turns, so
    that each turn is played, counted and logged once.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self._kept: dict[ChoiceKey, asyncio.Future[Choice]] = {}

    async def get(self, key: ChoiceKey, make: Callable[[], Awaitable[Choice]]) -> Choice:
        """Return the choice under `key`; make it if it is not there."""
        if key in self._kept:
            choice = await asyncio.shield(self._kept[key])
            return replace(choice, turns=())

        pending = asyncio.ensure_future(make())
        self._kept[key] = pending
        while len(self._kept) > self.limit:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
        try:
            return await asyncio.shield(pending)
        except BaseException:
            self._kept.pop(key, None)
            raise


async def choose(video: str, num_frames: int, query: str, ask: Ask, plan: Plan) -> Choice:
    """Return key segment and target frame for a query in the video named `video`.

    A video of one frame needs no question.
    """
    if num_frames == 1 or plan.mode == "first":
        return Choice(0, num_frames, 0)

    start = 0
    stop = num_frames
    turns: list[Turn] = []
    if plan.mode != "direct":
        start, stop, turns = await _narrow(num_frames, query, ask, plan)
    if plan.mode == "random":
        # The same frame for all episodes of a sample.
        seed = zlib.crc32(f"{video}\n{query}".encode("utf-8", "replace"))
        return Choice(start, stop, start + seed % (stop - start), tuple(turns))

    answers = await _ask(ask, position_question(query, start, stop, plan), plan)
    position = 0.5
    positions = []
    for turn in answers:
        read = read_position(turn.text)
        if read is not None:
            positions.append(read)
    if positions:
        position = top_mean(positions, plan.top)
    return Choice(start, stop, frame_at(start, stop, position), (*turns, *answers))


async def _narrow(
    num_frames: int,
    query: str,
    ask: Ask,
    plan: Plan,
) -> tuple[int, int, list[Turn]]:
    """The key segment: the mean of the sampled intervals, narrowed while longer than delta x T."""
    start = 0
    stop = num_frames
    turns: list[Turn] = []
    short = max(plan.delta * num_frames, MIN_FRAMES)
    for _ in range(plan.rounds):
        answers = await _ask(ask, interval_question(query, start, stop, plan), plan)
        turns += answers
        starts = []
        stops = []
        for turn in answers:
            interval = read_interval(turn.text, start, stop)
            if interval is not None:
                starts.append(interval[0])
                stops.append(interval[1])
        if not starts:
            break

        before = stop - start
        start = _round(sum(starts) / len(starts))
        stop = _round(sum(stops) / len(stops))
        length = stop - start
        if length <= short or before - length < MIN_SHRINK * before:
            break
    return start, stop, turns


async def _ask(ask: Ask, question: Content, plan: Plan) -> list[Turn]:
    """K independent answers to one question."""
    asked = []
    for _ in range(plan.samples):
        answer = ask.auxiliary(
            question,
            max_tokens=plan.max_tokens,
            temperature=plan.temperature,
            top_p=plan.top_p,
        )
        asked.append(answer)
    return list(await asyncio.gather(*asked))


def read_interval(text: str, start: int, stop: int) -> tuple[int, int] | None:
    """Return the half-open interval of an answer, cut to [start, stop); None if unreadable.

    Expected: {"start": 3, "end": 12}, frame numbers of the video, the end inside; in answer tags or
    not. An end before the start is unreadable. No text raises an error.
    """
    body = block(text, "answer")
    rows = search_records(_after_thought(text)) if body is None else records(body)
    if not rows:
        return None
    ends = numbers([rows[0].get("start"), rows[0].get("end")], 2)
    if ends is None or ends[1] < ends[0]:
        return None
    first = min(max(ends[0], float(start)), float(stop - 1))
    last = min(max(ends[1], float(start)), float(stop - 1))
    return int(first), int(last) + 1


def read_position(text: str) -> float | None:
    """Return the position in [0, 1] that an answer gives in percent; None if unreadable.

    "last 20%" counts from the end.
    """
    body = block(text, "answer")
    found = _PERCENT.search(_after_thought(text) if body is None else body)
    if found is None:
        return None
    share = min(float(found[2]) / 100, 1.0)
    return 1 - share if found[1] else share


def top_mean(positions: Sequence[float], top: int) -> float:
    """Return the mean of the `top` most frequent answers; the earlier of equally frequent ones."""
    counts = Counter(positions)
    ranked = sorted(positions, key=lambda position: (-counts[position], position))[:top]
    return math.fsum(ranked) / len(ranked)


def frame_at(start: int, stop: int, position: float) -> int:
    """Return frame start + floor(length x position) of [start, stop); the last one for 1."""
    return min(start + int((stop - start) * position), stop - 1)


def interval_question(query: str, start: int, stop: int, plan: Plan) -> Content:
    """Return the question for the key segment: numbered frames, then the instruction."""
    content = _numbered_frames(start, stop, plan)
    if plan.prompt == "short":
        return [*content, f" Part with {query}?"]
    instruction = (
        "\nThese frames are from a video, each after its number; the part shown has the frames "
        f"{start} to {stop - 1}. Which stretch of it does one have to watch to tell what "
        f'"{query}" refers to, and to see it well? Answer with the numbers of its first and last '
        f'frame, as JSON: {{"start": {start}, "end": {stop - 1}}}.'
    )
    return [*content, instruction]


def position_question(query: str, start: int, stop: int, plan: Plan) -> Content:
    """Return the question for the target frame: numbered frames, then the instruction."""
    content = _numbered_frames(start, stop, plan)
    if plan.prompt == "short":
        return [*content, f" Best view of {query}?"]
    instruction = (
        "\nThese frames are from a stretch of a video, in order. At which position of the stretch "
        f'is what "{query}" refers to seen best: large, sharp and hardly covered? Answer with one '
        "of 0%, 10%, 20%, 30%, 40%, 50%, 60%, 70%, 80%, 90%, 100%, where 0% is the first frame and "
        "100% the last."
    )
    return [*content, instruction]


def interval_answer(start: int, stop: int) -> str:
    """Return the answer for [start, stop) in the form of `read_interval`."""
    return f'{{"start":{start},"end":{stop - 1}}}'


def position_answer(start: int, stop: int, frame: int) -> str:
    """Return the answer for a frame of [start, stop), to the nearest tenth."""
    return f"{10 * _round(10 * (frame - start) / (stop - start))}%"


def _numbered_frames(start: int, stop: int, plan: Plan) -> Content:
    frames = [start + frame for frame in uniform_frames(stop - start, plan.frames)]
    names = [f"Frame {frame}:" for frame in frames]
    if plan.prompt == "short":
        names = [f"{frame}" for frame in frames]
    return show_frames(names, frames, (plan.height, plan.width))


def _after_thought(text: str) -> str:
    return text.rpartition("</think>")[2]


def _round(x: float) -> int:
    return math.floor(x + 0.5)
