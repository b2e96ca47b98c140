"""VideoSeg-R1's reward against VisionReasoner's definition, and completions that break parsers.

RAYVOS_FUZZ=100000 runs them at full size.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from core.types import Episode, Sample
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.score import truth_in
from tests.systems.r1_script import LEFT, TINY, drawn, play, sample
from tests.systems.scripted import ScriptedAsk

FUZZ = int(os.environ.get("RAYVOS_FUZZ", "400"))
GROUP_SIZE = 20

VISION_REASONER: dict[str, Any] = {
    "answer": "box_point",
    "length_penalty": "none",
    "target_height": 840,
    "target_width": 840,
}

# An object of a correct answer: its "bbox_2d" and its "point_2d".
TrueObject = dict[str, list[int]]


# --- VisionReasoner's definition


def reference(text: str, truth: list[TrueObject]) -> float:
    """Format (0 to 3), accuracy (0 to 3), non-repeat (0 or 1) of an answer at 840 x 840."""
    form = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)
    total = float(form is not None)
    rows = json_in_answer(text)
    if isinstance(rows, list) and rows:
        total += row_format(rows)
        total += accuracy(rows, truth)
    return total + (repeated_sentences(text) < 2)


def json_in_answer(text: str) -> Any:
    """The JSON value in the answer tags, None if it cannot be read."""
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    if not found:
        return None
    try:
        return json.loads(found.group(1).strip())
    except ValueError:
        return None


def row_format(rows: list[Any]) -> float:
    """Share of the rows with a list of four as box, plus that with a list of two as point."""
    total = 0.0
    for row in rows:
        if isinstance(row, dict):
            total += is_list(row.get("bbox_2d"), 4) / len(rows)
            total += is_list(row.get("point_2d"), 2) / len(rows)
    return total


def is_list(values: Any, count: int) -> bool:
    return type(values) is list and len(values) == count


def is_list_of_numbers(values: Any, count: int) -> bool:
    if not is_list(values, count):
        return False
    return all(type(value) in (int, float) for value in values)


def repeated_sentences(text: str) -> int:
    """Number of sentences that stand earlier in the text."""
    seen = []
    repeats = 0
    for part in text.split("."):
        sentence = part.strip()
        if sentence:
            repeats += sentence in seen
            seen.append(sentence)
    return repeats


def accuracy(rows: list[Any], truth: list[TrueObject]) -> float:
    """Points of the best assignment of rows to true objects, by the larger of both counts."""
    for row in rows:
        if not isinstance(row, dict):
            return 0.0
        if not is_list_of_numbers(row.get("bbox_2d"), 4):
            return 0.0
        if not is_list_of_numbers(row.get("point_2d"), 2):
            return 0.0

    points = pair_table(rows[:120], truth[:120])
    if len(points) > len(points[0]):
        points = [list(column) for column in zip(*points, strict=True)]
    fewer = len(points)
    more = len(points[0])

    best = 0
    for assignment in permutations(range(more), fewer):
        total = 0
        for i, j in enumerate(assignment):
            total += points[i][j]
        best = max(best, total)
    return best / more


def pair_table(rows: list[Any], truth: list[TrueObject]) -> list[list[int]]:
    """Points of each row (first index) with each true object (second index)."""
    table = []
    for row in rows:
        points_of_row = []
        for true in truth:
            points_of_row.append(pair_points(row, true))
        table.append(points_of_row)
    return table


def pair_points(row: dict[str, Any], true: TrueObject) -> int:
    """One point each for the boxes' IoU, the boxes' distance, and the point."""
    box = row["bbox_2d"]
    point = row["point_2d"]
    true_box = true["bbox_2d"]

    across = max(0, min(box[2], true_box[2]) - max(box[0], true_box[0]) + 1)
    down = max(0, min(box[3], true_box[3]) - max(box[1], true_box[1]) + 1)
    shared = across * down
    union = box_area(box) + box_area(true_box) - shared
    overlaps = union != 0 and shared / union > 0.5

    distances = [abs(a - b) for a, b in zip(box, true_box, strict=True)]
    close = sum(distances) / 4 < 10

    inside = box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
    near = inside and math.dist(point, true["point_2d"]) < 30
    return overlaps + close + near


def box_area(box: list[Any]) -> Any:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


# --- made-up answers


HOSTILE = (
    "",
    "[",
    "]",
    "{",
    "}",
    "\\",
    '"',
    "9" * 500,
    "-9e307",
    "1e999",
    "NaN",
    "Infinity",
    "\ud800",
    "null",
    "true",
    "[" * 50,
    "<answer>",
    "</think>",
    '"neg_points_2d":',
    "[[1,2],[3,4]]",
    "0",
    "\0",
)


class Fuzz:
    """Answers about a truth: near misses, wrong counts, broken rows, repetitions, missing tags."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def cut(self, text: str) -> tuple[int, int]:
        """A random start and stop in the text."""
        places = self.rng.integers(0, len(text) + 1, size=2)
        start, stop = sorted(places.tolist())
        return start, stop

    def answer(self, truth: list[TrueObject]) -> str:
        rows = []
        for i in self.rng.permutation(len(truth)):
            rows.append(self.row(truth[i]))
        if self.rng.random() < 0.3:
            rows = rows[: int(self.rng.integers(len(rows) + 1))]
        for _ in range(int(self.rng.integers(3))):
            rows.append(self.row(self.pick(*truth)))

        sentences = []
        for _ in range(self.rng.integers(5)):
            sentences.append(self.pick("a dog", "a cat", "left", "right", " left "))
        thought = ". ".join(sentences)

        gap = self.pick("", " ", "\n")
        text = f"<think>{thought}</think>{gap}<answer>{json.dumps(rows)}</answer>"
        if self.rng.random() < 0.25:
            return self.damage(text)
        return text

    def row(self, true: TrueObject) -> dict[str, Any]:
        """The true object, moved, and sometimes broken."""
        spread = self.pick(0, 3, 10, 30, 200)
        step = self.pick(1, 1, 0.25)
        row: dict[str, Any] = {
            "bbox_2d": self.move(true["bbox_2d"], spread, step),
            "point_2d": self.move(true["point_2d"], spread, step),
        }
        if self.rng.random() < 0.15:
            odd = self.pick(
                [],
                None,
                "x",
                [1, 2],
                [1, 2, 3, 4],
                [1, 2, "3", 4],
                [1, None],
                [4, 4, 1, 1],
                {"a": 1},
                3,
            )
            row[self.pick("bbox_2d", "point_2d")] = odd
        if self.rng.random() < 0.05:
            return self.pick(
                {},
                {"bbox_2d": [1, 2, 3, 4]},
                {"point_2d": [1, 2], "label": "x"},
                row | {"label": 1},
            )
        return row

    def move(self, values: list[int], spread: int, step: float) -> list[float]:
        moved = []
        for value in values:
            moved.append(value + step * int(self.rng.integers(-spread, spread + 1)))
        return moved

    def damage(self, text: str) -> str:
        start, stop = self.cut(text)
        fenced = text.replace("<answer>", "<answer>```json\n").replace("</answer>", "```</answer>")
        return self.pick(
            text.replace('"', "'"),
            "so " + text,
            text + " ",
            text.replace("<think>", ""),
            text.replace("</answer>", ""),
            text[:start] + text[stop:],
            text + text,
            fenced,
        )

    def anything(self, text: str) -> str:
        """Text with pieces cut out, doubled, or replaced by text that breaks parsers."""
        for _ in range(int(self.rng.integers(1, 5))):
            start, stop = self.cut(text)
            stop = min(stop, start + 40)
            piece = self.pick(text[start:stop] * 2, *HOSTILE)
            text = text[:start] + piece + text[stop:]
        return text


def sample_with_truth(seed: int) -> tuple[Sample, list[TrueObject]]:
    """A video of one frame with up to four rectangles, and the truth at 840 x 840."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(int(rng.integers(1, 5))):
        x = int(rng.integers(0, 45))
        y = int(rng.integers(0, 25))
        width = 2 * int(rng.integers(1, 8)) + 1
        height = 2 * int(rng.integers(1, 8)) + 1
        boxes.append((x, y, min(x + width, 60), min(y + height, 40)))
    of = sample(1, boxes)

    found = truth_in(of, 0, (840, 840))
    true_boxes = found.boxes_N4.astype(int).tolist()
    true_points = found.points_N2.astype(int).tolist()
    truth = []
    for box, point in zip(true_boxes, true_points, strict=True):
        truth.append({"bbox_2d": box, "point_2d": point})
    return of, truth


# --- tests


def test_truth_is_scaled_as_in_vision_reasoners_data() -> None:
    truth = truth_in(sample(), 0, (840, 840))
    assert truth.boxes_N4.tolist() == [[140, 210, 266, 399], [560, 210, 686, 609]]
    x, y = truth.points_N2[0]
    assert 10 * 14 <= x <= 19 * 14
    assert 10 * 21 <= y <= 19 * 21


def test_the_reward_is_that_of_vision_reasoner() -> None:
    system = VideoSegR1.make(TINY | VISION_REASONER)
    earned: list[float] = []
    for seed in range(max(FUZZ // GROUP_SIZE, 1)):
        of, truth = sample_with_truth(seed)
        fuzz = Fuzz(seed)
        texts = [fuzz.answer(truth) for _ in range(GROUP_SIZE)]
        group = [play(text, of, **VISION_REASONER)[0] for text in texts]
        rewards = [reward.total for reward in system.score(of, group)]
        expected = [reference(text, truth) for text in texts]
        assert rewards == pytest.approx(expected, abs=1e-9), texts
        earned += rewards

    distinct = {round(reward, 3) for reward in earned}
    assert len(distinct) > 20
    assert max(earned) == 7


@pytest.mark.parametrize("iou_source", ["box", "mask"])
def test_no_completion_breaks_the_parser_or_the_reward(iou_source: str) -> None:
    of, truth = sample_with_truth(1)
    empty = sample(1, boxes=())
    with_negatives = [true | {"neg_point_2d": [5, 5]} for true in truth]
    options = {"length_penalty": "paper", "iou_source": iou_source, "answer": "all"}
    system = VideoSegR1.make(TINY | VISION_REASONER | options)

    fuzz = Fuzz(1)
    mask_prompts = 0
    for _ in range(max(FUZZ // GROUP_SIZE, 1)):
        texts = [fuzz.anything(fuzz.answer(with_negatives)) for _ in range(GROUP_SIZE)]
        group = [asyncio.run(system.play(of, ScriptedAsk(text))) for text in texts]
        for episode in group:
            check_answer(episode)
            mask_prompts += len(episode.answer.prompts)
        check_rewards(system, of, group)
        check_rewards(system, empty, group)
    assert mask_prompts > FUZZ // 40, "few answers reach the segmenter: proves little"


def check_answer(episode: Episode) -> None:
    """The answer fits JSON, and every mask prompt has a box or a positive point."""
    json.dumps(episode.answer.to_json(), allow_nan=False)
    for prompt in episode.answer.prompts:
        assert prompt.box or 1 in prompt.labels


def check_rewards(system: VideoSegR1, of: Sample, group: list[Episode]) -> None:
    """Every reward is finite, and every part lies within its bounds."""
    masks = None
    if system.options.iou_source == "mask":
        boxes = [[LEFT] * len(episode.answer.prompts) for episode in group]
        masks = drawn(of, *boxes)
    for reward in system.score(of, group, masks):
        assert math.isfinite(reward.total)
        for name, part in reward.parts.items():
            assert math.isfinite(part)
            if name != "length":
                assert 0 <= part <= 3
