"""Reading tagged blocks, JSON and numbers out of any text."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.parsing import (
    block,
    find_records,
    integer,
    is_tagged,
    literal_value,
    loose_integer,
    loose_numbers,
    numbers,
    plain,
    records,
    search_records,
    value,
)

ROW = {"frame_idx": 7, "object description": "red circle"}


def test_block_takes_the_first() -> None:
    assert block("a <answer> 1 </answer><answer>2</answer>", "answer") == "1"


@pytest.mark.parametrize("text", ["", "answer", "<answer>1", "1</answer>", "</answer><answer>"])
def test_block_needs_both_tags(text: str) -> None:
    assert block(text, "answer") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("\n<think>a\nb</think>\n\n<answer>b</answer> ", True),
        ("<answer>b</answer>", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a</think><answer>b</answer> and more", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a<think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False),
    ],
)
def test_is_tagged_wants_the_blocks_and_nothing_else(text: str, expected: bool) -> None:
    assert is_tagged(text, ("think", "answer")) is expected


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ROW]),
        json.dumps(ROW),
        str([ROW]),
        f"```json\n{json.dumps([ROW])}\n```",
        f"```{json.dumps([ROW])}```",
        f"  ```\n{[ROW]}```  ",
    ],
)
def test_records_of_json_python_and_fenced(text: str) -> None:
    assert records(text) == [ROW]


@pytest.mark.parametrize(
    "text",
    ["", "7", "null", "[1, 2]", '[{"a": 1}, 2]', "{1, 2}", '{"a": 1', 'x {"a": 1}', "``````"],
)
def test_records_of_anything_else_are_none(text: str) -> None:
    assert records(text) == []


def test_search_skips_prose_and_brackets_without_records() -> None:
    text = 'It\'s [here]: ```json\n[{"a": "]}"}]``` [{"a": 2}]'
    assert search_records(text) == [{"a": "]}"}]


def test_search_gives_up_on_an_open_bracket() -> None:
    # The inner record is whole.
    assert search_records('[{"a": 1}') == [{"a": 1}]
    assert search_records('[{"a": 1') == []


@pytest.mark.parametrize(
    "hostile", ["[" * 19_000, "{'a':" * 5_000, "[{" * 9_000 + "}]" * 900, "-" * 9_999, "9" * 9_999]
)
def test_hostile_text_is_cheap(hostile: str) -> None:
    start = time.perf_counter()
    assert value(hostile) is None
    assert search_records(hostile) == []
    assert time.perf_counter() - start < 5.0


def test_value_of_an_overlong_text_is_none() -> None:
    assert value("[" + "1," * 10_001 + "1]") is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (7, 7),
        (7.0, 7),
        (-1, -1),
        (7.5, None),
        (True, None),
        ("7", None),
        (float("inf"), None),
        (float("nan"), None),
        (None, None),
        ([7], None),
    ],
)
def test_integer(number: Any, expected: int | None) -> None:
    assert integer(number) == expected


@pytest.mark.parametrize(
    "row",
    [
        [1, 2, 3],
        [1, 2, 3, "4"],
        [1, 2, 3, True],
        [1, 2, 3, float("nan")],
        [1, 2, 3, 10**400],
        "1234",
    ],
)
def test_numbers_wants_count_finite_numbers(row: Any) -> None:
    assert numbers(row, 4) is None


def test_numbers() -> None:
    assert numbers([1, 2.5, 3, 4], 4) == (1.0, 2.5, 3.0, 4.0)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (5, 5),
        ("5", 5),
        (" -5.0 ", -5),
        ("5.5", None),
        ("five", None),
        ("5 px", None),
        ("\uff15", None),
        ("1e3", None),
        ("0x5", None),
        ("9" * 400, None),
        ("", None),
        (True, None),
        (None, None),
        (["5"], None),
    ],
)
def test_an_integer_may_be_a_text(written: Any, expected: int | None) -> None:
    assert loose_integer(written) == expected


def test_numbers_may_be_texts() -> None:
    assert loose_numbers(["1", 2, " 3.5 "], 3) == (1, 2, 3.5)
    assert loose_numbers(["1", "x"], 2) is None
    assert loose_numbers("12", 2) is None


def test_records_are_found_between_words_but_not_inside_of_another_value() -> None:
    assert find_records('{"a": 1}') == [{"a": 1}]
    assert find_records('It is {"a": 1}.') == [{"a": 1}]
    assert find_records('[3, {"a": 1}]') == []
    assert find_records('It is [{"a": 1}, {"b": x}].') == []
    assert find_records('It is [{"a": 1}') == []
    assert find_records('</think><answer>{"a": 1}') == []


def test_a_literal_is_python_and_not_json() -> None:
    assert literal_value("{'a': True}") == {"a": True}
    assert literal_value('{"a": true}') is None
    assert literal_value("[" * 21 + "]" * 21) is None


def test_plain_takes_out_special_tokens_and_broken_unicode() -> None:
    assert plain(" a\n<|image_pad|> b ") == "a image_pad b"
    assert plain("<<||") == ""
    assert plain("\ud800").encode() == b"?"


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_nothing_raises(text: str) -> None:
    value(text)
    records(text)
    search_records(text)
    block(text, "answer")
    is_tagged(text, ("think", "answer"))
    assert "<|" not in plain(text)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(alphabet="[]{}()\"'\\:,1-.eE \n`ab<>/j"))
def test_nothing_raises_on_nearly_json(text: str) -> None:
    value(text)
    records(text)
    search_records(text)
