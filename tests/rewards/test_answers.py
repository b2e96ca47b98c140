"""Form of an answer and repetition in it, by hand."""

from typing import Any

import pytest

from rewards.answers import answer_format, non_repeat, think_format

BOX_AND_POINT = {"bbox_2d": 4, "point_2d": 2}
BOX = [1, 2, 3, 4]
POINT = [1, 2]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("<think>a\nb</think> \n <answer></answer>", 1),
        # The published pattern checks the ends and the seam only.
        ("<think></think><answer><think>b</think></answer>", 1),
        (" <think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer>\n", 0),
        ("<think>a</think>so<answer>b</answer>", 0),
        ("<answer>b</answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("", 0),
    ],
)
def test_think_format(text: str, reward: float) -> None:
    assert think_format([text]).tolist() == [reward]


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ([{"bbox_2d": BOX, "point_2d": POINT}], 2),
        ([{"bbox_2d": BOX}], 1),
        # Only the length of the list counts.
        ([{"bbox_2d": ["a", None, [], {}], "point_2d": [1, 2, 3]}], 1),
        ([{"bbox_2d": BOX, "point_2d": POINT}, {"point_2d": POINT}], 1.5),
        ([{"bbox_2d": "1234", "point_2d": 12}], 0),
        ([{"bbox_2d": BOX, "point_2d": POINT}, 7, None, "bbox_2d"], 0.5),
        ({"bbox_2d": BOX, "point_2d": POINT}, 0),
        ([], 0),
        (None, 0),
    ],
)
def test_answer_format(answer: Any, reward: float) -> None:
    assert answer_format([answer], BOX_AND_POINT).tolist() == [reward]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("", 1),
        ("a. b. c", 1),
        pytest.param("a. a. b", 1, id="one repeat is tolerated"),
        ("a. a. a", 0),
        ("a. b. a. b.", 0),
        pytest.param("a . a.  a", 0, id="stripped"),
        pytest.param("...", 1, id="no sentences"),
        ("a. A. a ", 1),
    ],
)
def test_non_repeat(text: str, reward: float) -> None:
    assert non_repeat([text]).tolist() == [reward]


def test_a_group_in_order() -> None:
    assert non_repeat(["a.a.a", "b"]).tolist() == [0, 1]
    assert think_format(["", "<think></think><answer></answer>"]).tolist() == [0, 1]
