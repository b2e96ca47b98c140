"""Tokens of prompts, counted without an engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import systems
from core.types import Sample, Target, View
from models.dialogue import Dialogue
from models.families import FAMILIES, Qwen2_5VL, Qwen3VL
from models.prompt_tokens import (
    Question,
    count_prompt,
    demonstrated_questions,
    longest_prompt,
    opening_questions,
)
from tests.models import tiny_engine
from tests.systems.scripted import rectangle, video

DIALOGUE = Dialogue(tiny_engine.tokenizer(), Qwen2_5VL())
VISIBLE = Target("one", tuple(rectangle(4, 4, 30, 30) for _ in range(24)))
SAMPLE = Sample("v/0", video(24), "the one that wins", (VISIBLE,))


def test_a_prompt_is_counted_as_the_learner_writes_it() -> None:
    content: list[str | View] = ["a", View(0, 56, 84), "b", View(1, 28, 28)]
    count = count_prompt(DIALOGUE, content, answer=7)
    expanded = DIALOGUE.user(content, first=True, expanded=True)

    assert count.prompt == len(expanded)
    assert count.visual == expanded.count(DIALOGUE.image_id) == 7
    assert count.images == 2
    assert count.total == len(expanded) + 7


def test_a_later_message_follows_an_answer() -> None:
    count = count_prompt(DIALOGUE, ["b"], first=False)
    assert count.prompt == len(DIALOGUE.user(["b"], first=False, expanded=True))


def test_the_longest_prompt_counts_its_answer() -> None:
    questions = [Question(("a", "b"), 3), Question(("a",), 9)]
    assert longest_prompt(DIALOGUE, questions).answer == 9


def test_a_size_outside_the_family_is_refused() -> None:
    with pytest.raises(ValueError, match="view of 50 x 84 pixels.*multiples of 28"):
        count_prompt(DIALOGUE, [View(0, 50, 84)])
    with pytest.raises(ValueError, match="784 to 12845056; change the system's frame size"):
        count_prompt(DIALOGUE, [View(0, 28 * 1000, 28 * 17)])


@pytest.mark.parametrize("family", FAMILIES)
def test_limits_of_an_image_are_one_token_and_the_official_most(family: str) -> None:
    official = {"qwen2_5_vl": 12845056, "qwen3_vl": 16777216}
    vision = FAMILIES[family]().vision
    assert vision.min_pixels == vision.cell**2
    assert vision.max_pixels == official[family]


@pytest.mark.parametrize("name", ["revseg", "veason_r1", "videoseg_o3"])
def test_a_system_asks_once_before_it_needs_an_answer(name: str) -> None:
    [question] = opening_questions(systems.make(name, {}, Qwen3VL().vision), SAMPLE)
    assert question.first
    assert question.max_tokens > 0
    assert any(isinstance(piece, View) for piece in question.content)


def test_auxiliary_questions_are_heard_unless_there_are_hints() -> None:
    system = systems.make("videoseg_r1", {"sampler_samples": 3})
    assert len(opening_questions(system, SAMPLE)) > 1

    hints = system.shown(SAMPLE, np.random.default_rng(0)).hints
    assert len(opening_questions(system, replace(SAMPLE, hints=hints))) == 1


def test_demonstrated_questions_are_all_turns() -> None:
    system = systems.make("revseg", {})
    first, second = demonstrated_questions(system, SAMPLE, np.random.default_rng(0))
    assert first.first
    assert not second.first
    assert second.content[-1] != first.content[-1]
