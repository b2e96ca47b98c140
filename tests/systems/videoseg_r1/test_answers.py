"""Answers of VideoSeg-R1, read leniently for masks and strictly for rewards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.geometry import Grid
from systems.videoseg_r1.answers import (
    coordinates,
    negatives,
    read_objects,
    reasoning,
    strict_answer,
)

PIXELS = Grid((840, 840))
ROW = '{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6], "neg_point_2d": [50, 6]}'
READ = {"box": [1, 2, 30, 40], "point": [5, 6], "negatives": [[50, 6]]}


def answer(body: str) -> str:
    return f"<think>t</think><answer>{body}</answer>"


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (f"[{ROW}]", [READ]),
        (ROW, [READ]),
        (f"```json\n[{ROW}]\n```", [READ]),
        (f"[{ROW}]".replace('"', "'"), [READ]),
        (f"[{ROW}, {ROW}]", [READ, READ]),
        (f"The dog: [{ROW}]. Done.", [READ]),
        (f"[{ROW}]".replace("30", '"30"').replace("6", '"6"'), [READ]),
        ("[]", []),
        ("```json\n[]\n```", []),
        ('[{"bbox_2d": [9, 9, 1, 1]}]', [{"box": [9, 9, 1, 1], "point": None, "negatives": []}]),
        (
            '[{"point_2d": [5, 6], "neg_points_2d": [[1, 2], [3], [4, 5]]}]',
            [{"box": None, "point": [5, 6], "negatives": [[1, 2], [4, 5]]}],
        ),
        (f'[{ROW}, {{"label": "x"}}]', [READ]),
        ('[{"neg_point_2d": [5, 6]}]', None),
        ('[{"bbox_2d": [1, 2, 3, NaN]}]', None),
        ('[{"bbox_2d": [1, 2, 3, "4px"]}]', None),
        ('[{"bbox": [1, 2, 3, 4]}]', None),
        ("[1, 2]", None),
        ("{}", None),
        ("the dog", None),
        ("", None),
    ],
)
def test_objects_are_read_for_masks(body: str, objects: list[dict[str, Any]] | None) -> None:
    assert read_objects(answer(body), PIXELS) == objects


def test_numbers_as_texts_earn_nothing() -> None:
    """VisionReasoner's reward cannot calculate with them."""
    quoted = strict_answer(answer(f"[{ROW}]".replace("30", '"30"')))
    assert coordinates(quoted, PIXELS) == []
    assert negatives([{"neg_point_2d": ["1", 2]}], PIXELS) == []


def test_thousandths_become_pixels_of_the_target_frame() -> None:
    grid = Grid((500, 2000), "thousandths")
    row = {"bbox_2d": [10, 20, 300, 400], "point_2d": [50, 60], "neg_point_2d": [1000, 0]}
    box = [20, 10, 600, 200]
    assert coordinates([row], grid) == [(*box, 100, 30)]
    assert negatives([row], grid) == [(2000, 0)]
    assert read_objects(answer(json.dumps([row])), grid) == [
        {"box": box, "point": [100, 30], "negatives": [[2000, 0]]}
    ]


def test_nothing_is_read_without_answer_tags() -> None:
    assert read_objects(f"[{ROW}]", PIXELS) is None
    assert strict_answer(f"[{ROW}]") is None


def test_at_most_120_objects_are_read() -> None:
    rows = ", ".join([ROW] * 150)
    text = answer(f"[{rows}]")
    objects = read_objects(text, PIXELS)
    assert objects is not None
    assert len(objects) == 120
    assert len(coordinates(strict_answer(text), PIXELS)) == 120


@pytest.mark.parametrize(
    "body", [f"```json\n[{ROW}]\n```", f"[{ROW}]".replace('"', "'"), f"[{ROW},]", "null"]
)
def test_only_strict_json_earns(body: str) -> None:
    assert strict_answer(answer(body)) is None


def test_one_bad_object_makes_the_answer_worth_nothing() -> None:
    good = strict_answer(answer(f"[{ROW}]"))
    assert good is not None
    assert coordinates(good, PIXELS) == [(1, 2, 30, 40, 5, 6)]

    bad_objects: list[object] = [
        {"bbox_2d": [1, 2, 3, 4]},
        {"bbox_2d": [1, 2, 3], "point_2d": [1, 2]},
        "x",
        {},
    ]
    for bad in bad_objects:
        assert coordinates([*good, bad], PIXELS) == []


def test_a_point_is_needed_only_where_it_is_asked_for() -> None:
    assert coordinates([{"bbox_2d": [1, 2, 3, 4]}], PIXELS, point=False) == [(1, 2, 3, 4, 0, 0)]


def test_an_answer_that_is_not_a_list_has_no_coordinates() -> None:
    assert coordinates({"bbox_2d": [1, 2, 3, 4], "point_2d": [1, 2]}, PIXELS) == []
    assert coordinates(None, PIXELS) == []


def test_negative_points_of_all_objects_are_read() -> None:
    rows = [{"neg_point_2d": [1, 2]}, {"neg_points_2d": [[3, 4], [5, 6]]}, 7]
    assert negatives(rows, PIXELS) == [(1, 2), (3, 4), (5, 6)]

    only_negative = strict_answer('<answer>[{"neg_points_2d": [[3, 4]]}]</answer>')
    assert only_negative is not None
    assert only_negative[0]["neg_point_2d"] == [3, 4]


def test_the_reasoning_is_all_before_the_answer() -> None:
    assert reasoning("<think>two words</think><answer>x</answer>") == "two words"
    assert reasoning("no tags at all") == "no tags at all"
