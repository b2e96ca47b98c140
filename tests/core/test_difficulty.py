"""Question, parser and mean of the difficulty ratings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.difficulty import ASPECTS, UNKNOWN, answer, difficulty, is_complete, question, read

FIVE = dict(zip(ASPECTS, (2, 5, 10, 1, 7), strict=True))


def test_the_difficulty_is_the_mean_and_a_missing_rating_the_middle_of_the_scale() -> None:
    assert difficulty(FIVE) == 5.0
    assert difficulty({}) == UNKNOWN
    assert difficulty({"scene_complexity": 1}) == pytest.approx((1 + 4 * 5.5) / 5)


@pytest.mark.parametrize(
    "text",
    [
        answer(FIVE),
        f"Here it is:\n```json\n{answer(FIVE)}\n```",
        str(FIVE),
        f"[{answer(FIVE)}, {{}}]",
        answer(FIVE).replace(": 5", ": 5.0") + " I hope this helps.",
    ],
)
def test_ratings_are_read_in_the_usual_spellings(text: str) -> None:
    assert read(text) == FIVE
    assert is_complete(read(text))


@pytest.mark.parametrize("bad", ['"7"', "0", "11", "5.5", "null", "true", "[3]"])
def test_what_is_no_rating_is_left_out(bad: str) -> None:
    found = read(answer(FIVE).replace('"motion_complexity": 1', f'"motion_complexity": {bad}'))
    assert found == {k: v for k, v in FIVE.items() if k != "motion_complexity"}
    assert not is_complete(found)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}[]":,0123456789.aspect_scene complexity\\', max_size=120))
def test_any_text_is_taken(text: str) -> None:
    assert all(1 <= rating <= 10 for rating in read("{" + text).values())


def test_the_question_names_what_is_read_and_shows_no_special_token_of_the_sentence() -> None:
    asked = question("the <|image_pad|>dog", 8)
    assert all(aspect in asked for aspect in ASPECTS)
    assert "8 frames" in asked
    assert "<|" not in asked
