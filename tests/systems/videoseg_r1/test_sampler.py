"""The frame sampler of VideoSeg-R1, with scripted answers."""

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
    """A policy for auxiliary questions; checks that they are asked with the settings of `PLAN`."""

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
    """Choose a target frame; every text must have been asked for."""
    helper = Helper(*texts)
    plan = replace(PLAN, **changes)
    choice = asyncio.run(choose("v", num_frames, "the dog", helper, plan))
    assert len(helper.auxiliary_contents) == len(texts)
    assert len(choice.turns) == len(texts)
    return choice, helper


def interval(start: int, end: int) -> str:
    return f'{{"start": {start}, "end": {end}}}'


def shown_frames(content: Sequence[str | View]) -> list[int]:
    return [piece.frame for piece in content if isinstance(piece, View)]


# --- choosing


def test_intervals_are_averaged_and_narrowed_until_short() -> None:
    first_round = (interval(10, 69), interval(20, 79))
    second_round = (interval(30, 49), interval(34, 53))
    choice, helper = run(*first_round, *second_round, "0%", "50%")
    # The mean of the first round, 15 to 75, is longer than .3 x 100 frames; 32 to 52 is not.
    assert choice.start == 32
    assert choice.stop == 52
    # A quarter of 20 frames.
    assert choice.frame == 37
    assert shown_frames(helper.auxiliary_contents[0]) == [12, 37, 62, 87]
    assert shown_frames(helper.auxiliary_contents[2]) == [22, 37, 52, 67]


def test_a_question_numbers_its_frames_and_quotes_the_query() -> None:
    _, helper = run(interval(10, 29), interval(10, 29), "0%", "50%")
    first = helper.auxiliary_contents[0]
    assert first[:2] == ["Frame 12:", View(12, 56, 84)]
    assert '"the dog"' in first[-1]


def test_the_turns_of_a_choice_are_not_trained() -> None:
    first_round = (interval(10, 69), interval(20, 79))
    second_round = (interval(30, 49), interval(34, 53))
    choice, _ = run(*first_round, *second_round, "0%", "50%")
    for turn in choice.turns:
        assert not turn.trainable


def test_narrowing_stops_when_an_interval_is_hardly_shorter() -> None:
    # 5 % shorter.
    choice, _ = run(interval(0, 94), interval(0, 94), "100%", "100%")
    assert choice.start == 0
    assert choice.stop == 95
    assert choice.frame == 94


def test_narrowing_stops_after_three_rounds() -> None:
    rounds = (interval(0, 79), "?", interval(0, 59), "?", interval(0, 44), "?")
    choice, _ = run(*rounds, "0%", "?")
    assert choice.start == 0
    assert choice.stop == 45


def test_short_intervals_are_not_narrowed() -> None:
    choice, _ = run(interval(0, 7), interval(0, 7), "0%", "0%", num_frames=10)
    assert choice.start == 0
    assert choice.stop == 8


def test_unreadable_answers_choose_the_middle_of_the_video() -> None:
    choice, _ = run("?", "the middle", "no", "idea")
    assert choice.start == 0
    assert choice.stop == 100
    assert choice.frame == 50


def test_mode_first_asks_nothing() -> None:
    choice, _ = run(mode="first")
    assert choice == Choice(0, 100, 0)


def test_a_video_of_one_frame_asks_nothing() -> None:
    choice, _ = run(num_frames=1)
    assert choice == Choice(0, 1, 0)


def test_mode_direct_asks_for_the_position_in_the_whole_video() -> None:
    choice, _ = run("30%", "last 30%", mode="direct")
    assert choice.start == 0
    assert choice.stop == 100
    assert choice.frame == 50


def test_mode_random_chooses_the_same_frame_of_the_segment_for_a_whole_group() -> None:
    choice, _ = run(interval(40, 59), interval(40, 59), mode="random")
    assert choice.start == 40
    assert choice.stop == 60
    assert 40 <= choice.frame < 60
    again, _ = run(interval(40, 59), interval(40, 59), mode="random")
    assert again.frame == choice.frame


# --- reading


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (interval(3, 12), (10, 13)),
        (interval(12, 30), (12, 31)),
        (f"<think>5 to 6</think><answer>{interval(12, 30)}</answer>", (12, 31)),
        (f"from there: {interval(12, 99)}", (12, 40)),
        (interval(30, 12), None),
        ('{"start": 3}', None),
        ('{"start": "3", "end": 4}', None),
        ("[3, 12]", None),
        ("", None),
    ],
)
def test_intervals_are_read(text: str, span: tuple[int, int] | None) -> None:
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
def test_positions_are_read(text: str, position: float | None) -> None:
    found = read_position(text)
    if position is None:
        assert found is None
    else:
        assert found == pytest.approx(position)


def test_the_mean_is_that_of_the_most_frequent_positions() -> None:
    assert top_mean([0.9, 0.1, 0.9, 0.5], 2) == 0.9
    # Of two positions given once each, the earlier counts.
    assert top_mean([0.9, 0.1, 0.9, 0.5], 3) == pytest.approx(1.9 / 3)
    assert top_mean([0.2, 0.4], 10) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("position", "frame"), [(0, 10), (0.19, 11), (0.5, 15), (0.99, 19), (1, 19)]
)
def test_position_one_is_the_last_frame(position: float, frame: int) -> None:
    assert frame_at(10, 20, position) == frame


# --- remembering choices


def test_a_choice_is_made_once_for_each_video_query_and_version() -> None:
    plan = replace(PLAN, mode="direct")
    helper = Helper("0%", "0%", "100%", "100%")

    async def choose_frame() -> Choice:
        return await choose("v", 100, "the dog", helper, plan)

    async def ask_all() -> list[Choice]:
        choices = Choices()
        version_0 = ("v", "the dog", 0)
        version_1 = ("v", "the dog", 1)
        first, same = await asyncio.gather(
            choices.get(version_0, choose_frame), choices.get(version_0, choose_frame)
        )
        later = await choices.get(version_0, choose_frame)
        newer = await choices.get(version_1, choose_frame)
        return [first, same, later, newer]

    first, same, later, newer = asyncio.run(ask_all())
    assert len(first.turns) == 2
    assert same.turns == ()
    assert later.turns == ()
    assert first.frame == 0
    assert same.frame == 0
    assert later.frame == 0
    assert newer.frame == 99


def test_a_failed_choice_is_made_again() -> None:
    async def fail() -> Choice:
        raise RuntimeError("engine died")

    async def succeed() -> Choice:
        return Choice(0, 4, 1)

    async def ask_twice() -> Choice:
        choices = Choices()
        with pytest.raises(RuntimeError):
            await choices.get(("v", "q", 0), fail)
        return await choices.get(("v", "q", 0), succeed)

    assert asyncio.run(ask_twice()) == Choice(0, 4, 1)


# --- the short form


def test_short_questions() -> None:
    plan = replace(PLAN, prompt="short")
    frames = [
        "10",
        View(10, 56, 84),
        "11",
        View(11, 56, 84),
        "12",
        View(12, 56, 84),
        "13",
        View(13, 56, 84),
    ]
    assert interval_question("the dog", 10, 14, plan) == [*frames, " Part with the dog?"]
    assert position_question("the dog", 10, 14, plan) == [*frames, " Best view of the dog?"]


@pytest.mark.parametrize(("start", "stop"), [(0, 24), (3, 11), (7, 8)])
def test_demonstrated_answers_are_read_back(start: int, stop: int) -> None:
    assert read_interval(interval_answer(start, stop), 0, 24) == (start, stop)
    for frame in range(start, stop):
        position = read_position(position_answer(start, stop, frame))
        assert position is not None
        read_back = frame_at(start, stop, position)
        assert start <= read_back < stop
        assert abs(read_back - frame) <= (stop - start) / 20 + 1
