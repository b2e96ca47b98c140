"""The frame sampler with scripted answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from core.types import Turn, View
from systems.videoseg_r1.sampler import (
    Choice,
    Choices,
    Plan,
    choose,
    frame_at,
    interval_answer,
    interval_question,
    position_answer,
    position_question,
    read_interval,
    read_position,
    top_mean,
)
from tests.systems.scripted import ScriptedAsk

PLAN = Plan(samples=2, frames=4, height=56, width=84)


class Helper(ScriptedAsk):
    """Answers auxiliary questions, which must be asked with the sampler's settings."""

    version = 3

    def __init__(self, *texts: str) -> None:
        super().__init__(auxiliary=texts)

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        assert (max_tokens, temperature, top_p) == (128, 0.6, 0.9)
        return await super().auxiliary(
            content, max_tokens=max_tokens, temperature=temperature, top_p=top_p
        )


def run(*texts: str, num_frames: int = 100, **changes: Any) -> tuple[Choice, Helper]:
    helper = Helper(*texts)
    choice = asyncio.run(choose("v", num_frames, "the dog", helper, replace(PLAN, **changes)))
    assert len(helper.auxiliary_contents) == len(texts) == len(choice.turns)
    return choice, helper


def part(start: int, end: int) -> str:
    return f'{{"start": {start}, "end": {end}}}'


def frames(content) -> list[int]:
    return [piece.frame for piece in content if isinstance(piece, View)]


def test_intervals_are_averaged_and_narrowed_down_until_short():
    choice, helper = run(part(10, 69), part(20, 79), part(30, 49), part(34, 53), "0%", "50%")
    assert (choice.start, choice.stop) == (
        32,
        52,
    )  # 15 to 75 is longer than .3 x 100, 32 to 52 is not
    assert choice.frame == 37  # a quarter of 20 frames
    assert frames(helper.auxiliary_contents[0]) == [12, 37, 62, 87]
    assert frames(helper.auxiliary_contents[2]) == [22, 37, 52, 67]
    assert helper.auxiliary_contents[0][:2] == ["Frame 12:", View(12, 56, 84)]
    assert '"the dog"' in helper.auxiliary_contents[0][-1]
    assert all(not turn.trainable for turn in choice.turns)


def test_it_stops_when_nothing_is_gained():
    choice, _ = run(part(0, 94), part(0, 94), "100%", "100%")  # 5 % shorter
    assert (choice.start, choice.stop, choice.frame) == (0, 95, 94)
    choice, _ = run(
        part(0, 79), "?", part(0, 59), "?", part(0, 44), "?", "0%", "?"
    )  # at most three rounds
    assert (choice.start, choice.stop) == (0, 45)


def test_short_parts_are_not_narrowed_down():
    choice, _ = run(part(0, 7), part(0, 7), "0%", "0%", num_frames=10)
    assert (choice.start, choice.stop) == (0, 8)


def test_nothing_readable():
    choice, _ = run("?", "the middle", "no", "idea")
    assert (choice.start, choice.stop, choice.frame) == (0, 100, 50)


def test_modes():
    assert run(mode="first")[0] == Choice(0, 100, 0)
    assert run(num_frames=1)[0] == Choice(0, 1, 0)
    direct, _ = run("30%", "last 30%", mode="direct")
    assert (direct.start, direct.stop, direct.frame) == (0, 100, 50)
    anywhere, _ = run(part(40, 59), part(40, 59), mode="random")
    assert (anywhere.start, anywhere.stop) == (40, 60)
    assert 40 <= anywhere.frame < 60
    assert (
        run(part(40, 59), part(40, 59), mode="random")[0].frame == anywhere.frame
    )  # the same for a whole group


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (part(3, 12), (10, 13)),
        (part(12, 30), (12, 31)),
        (f"<think>5 to 6</think><answer>{part(12, 30)}</answer>", (12, 31)),
        (f"from there: {part(12, 99)}", (12, 40)),
        (part(30, 12), None),
        ('{"start": 3}', None),
        ('{"start": "3", "end": 4}', None),
        ("[3, 12]", None),
        ("", None),
    ],
)
def test_intervals(text, span):
    assert read_interval(text, 10, 40) == span


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("30%", 0.3),
        ("about 30 %.", 0.3),
        ("last 20%", 0.8),
        ("Last 100%", 0),
        ("250%", 1),
        ("12.5%", 0.125),
        ("<think>90%</think>10%", 0.1),
        ("<answer>10%</answer> 20%", 0.1),
        ("30", None),
        ("%", None),
        ("", None),
    ],
)
def test_positions(text, position):
    assert read_position(text) == (position if position is None else pytest.approx(position))


def test_the_positions_given_most_often_count():
    assert top_mean([0.9, 0.1, 0.9, 0.5], 2) == 0.9
    assert top_mean([0.9, 0.1, 0.9, 0.5], 3) == pytest.approx(
        1.9 / 3
    )  # of the two given once, the earlier
    assert top_mean([0.2, 0.4], 10) == pytest.approx(0.3)


def test_position_one_is_the_last_frame():
    assert [frame_at(10, 20, p) for p in (0, 0.19, 0.5, 0.99, 1)] == [10, 11, 15, 19, 19]


def test_a_choice_is_made_once_for_each_video_query_and_version():
    async def ask_all() -> list[Choice]:
        choices = Choices()
        helper = Helper("0%", "0%", "100%", "100%")

        async def get(version: int) -> Choice:
            async def make() -> Choice:
                return await choose("v", 100, "the dog", helper, replace(PLAN, mode="direct"))

            return await choices.get(("v", "the dog", version), make)

        return [*await asyncio.gather(get(0), get(0)), await get(0), await get(1)]

    first, same, later, other = asyncio.run(ask_all())
    assert len(first.turns) == 2
    assert same.turns == later.turns == ()
    assert first.frame == same.frame == later.frame == 0
    assert other.frame == 99


def test_a_failed_choice_is_made_again():
    async def twice() -> Choice:
        choices = Choices()

        async def fails() -> Choice:
            raise RuntimeError("engine died")

        async def works() -> Choice:
            return Choice(0, 4, 1)

        with pytest.raises(RuntimeError):
            await choices.get(("v", "q", 0), fails)
        return await choices.get(("v", "q", 0), works)

    assert asyncio.run(twice()) == Choice(0, 4, 1)


def test_short_questions_and_their_answers():
    helper_plan = replace(PLAN, prompt="short")
    interval, position = (
        ask("the dog", 10, 14, helper_plan) for ask in (interval_question, position_question)
    )
    assert interval == [
        "10",
        View(10, 56, 84),
        "11",
        View(11, 56, 84),
        "12",
        View(12, 56, 84),
        "13",
        View(13, 56, 84),
        " Part with the dog?",
    ]
    assert position == [*interval[:-1], " Best view of the dog?"]
    for start, stop in ((0, 24), (3, 11), (7, 8)):
        assert read_interval(interval_answer(start, stop), 0, 24) == (start, stop)
        for frame in range(start, stop):
            share = read_position(position_answer(start, stop, frame))
            assert share is not None
            told = frame_at(start, stop, share)
            assert start <= told < stop
            assert abs(told - frame) <= (stop - start) / 20 + 1
