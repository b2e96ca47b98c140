"""Question, parser and mean of the difficulty ratings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.difficulty import (
    ASPECTS,
    UNKNOWN,
    difficulty,
    is_complete,
    rating_answer,
    rating_question,
    read_ratings,
)

FIVE = dict(zip(ASPECTS, (2, 5, 10, 1, 7), strict=True))
ANSWER = rating_answer(FIVE)


def test_the_difficulty_is_the_mean_and_a_missing_rating_the_middle_of_the_scale() -> None:
    assert difficulty(FIVE) == 5.0
    assert difficulty({}) == UNKNOWN
    assert difficulty({"scene_complexity": 1}) == pytest.approx((1 + 4 * 5.5) / 5)


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"Here it is:\n```json\n{ANSWER}\n```",
        str(FIVE),
        f"[{ANSWER}, {{}}]",
        ANSWER.replace(": 5", ": 5.0") + " I hope this helps.",
    ],
)
def test_ratings_are_read_in_the_usual_spellings(text: str) -> None:
    assert read_ratings(text) == FIVE
    assert is_complete(read_ratings(text))


@pytest.mark.parametrize("bad", ['"7"', "0", "11", "5.5", "null", "true", "[3]"])
def test_an_unreadable_rating_is_left_out(bad: str) -> None:
    text = ANSWER.replace('"motion_complexity": 1', f'"motion_complexity": {bad}')
    found = read_ratings(text)
    assert found == {aspect: FIVE[aspect] for aspect in ASPECTS if aspect != "motion_complexity"}
    assert not is_complete(found)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}[]":,0123456789.aspect_scene complexity\\', max_size=120))
def test_any_text_is_taken(text: str) -> None:
    for rating in read_ratings("{" + text).values():
        assert 1 <= rating <= 10


def test_the_question_names_every_aspect_and_shows_no_special_token_of_the_query() -> None:
    question = rating_question("the <|image_pad|>dog", 8)
    for aspect in ASPECTS:
        assert aspect in question
    assert "8 frames" in question
    assert "<|" not in question
