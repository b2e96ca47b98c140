"""VideoSeg-R1's reward against VisionReasoner's definition, and completions that break parsers.

RAYVOS_FUZZ=100000 runs them at full size.
"""

import asyncio
import json
import math
import os
import re
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from core.types import Sample
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.score import truth_in
from tests.systems.r1_script import LEFT, TINY, drawn, play, sample
from tests.systems.scripted import ScriptedAsk

FUZZ = int(os.environ.get("RAYVOS_FUZZ", "400"))

VISION_REASONER: dict[str, Any] = {
    "answer": "box_point",
    "length_penalty": "none",
    "target_height": 840,
    "target_width": 840,
}


def reference(text: str, truth: list[dict[str, list[int]]]) -> float:
    """Format (0 to 3), accuracy (0 to 3), non-repeat (0 or 1) of an answer at 840 x 840."""
    total = float(bool(re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)))
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    try:
        rows = json.loads(found.group(1).strip()) if found else None
    except ValueError:
        rows = None
    if isinstance(rows, list) and rows:
        for row in rows:
            if isinstance(row, dict):
                total += (type(row.get("bbox_2d")) is list and len(row["bbox_2d"]) == 4) / len(rows)
                total += (type(row.get("point_2d")) is list and len(row["point_2d"]) == 2) / len(
                    rows
                )
        total += accuracy(rows, truth)
    seen = []
    repeats = 0
    for sentence in (part.strip() for part in text.split(".")):
        if sentence:
            repeats += sentence in seen
            seen.append(sentence)
    return total + (repeats < 2)


def accuracy(rows, truth) -> float:

    def whole(values, count):
        if type(values) is not list or len(values) != count:
            return False
        return all(type(value) in (int, float) for value in values)

    if not all(
        isinstance(r, dict) and whole(r.get("bbox_2d"), 4) and whole(r.get("point_2d"), 2)
        for r in rows
    ):
        return 0.0
    rows = rows[:120]
    truth = truth[:120]
    pairs = [
        [pair(r["bbox_2d"], r["point_2d"], t["bbox_2d"], t["point_2d"]) for t in truth]
        for r in rows
    ]
    if len(pairs) > len(pairs[0]):
        pairs = [list(column) for column in zip(*pairs, strict=True)]
    few = len(pairs)
    many = len(pairs[0])
    return (
        max(sum(pairs[i][j] for i, j in enumerate(p)) for p in permutations(range(many), few))
        / many
    )


def pair(box, point, true_box, true_point) -> int:

    def wide(b):
        return (b[2] - b[0] + 1) * (b[3] - b[1] + 1)

    across = max(0, min(box[2], true_box[2]) - max(box[0], true_box[0]) + 1)
    down = max(0, min(box[3], true_box[3]) - max(box[1], true_box[1]) + 1)
    shared = across * down
    union = wide(box) + wide(true_box) - shared
    hit = union != 0 and shared / union > 0.5
    close = sum(abs(a - b) for a, b in zip(box, true_box, strict=True)) / 4 < 10
    inside = box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
    return hit + close + (inside and math.dist(point, true_point) < 30)


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

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def answer(self, truth: list[dict[str, list[int]]]) -> str:
        rows = [self.row(truth[i]) for i in self.rng.permutation(len(truth))]
        rows = rows[: int(self.rng.integers(len(rows) + 1))] if self.rng.random() < 0.3 else rows
        rows += [self.row(self.pick(*truth)) for _ in range(int(self.rng.integers(3)))]
        thought = ". ".join(
            self.pick("a dog", "a cat", "left", "right", " left ")
            for _ in range(self.rng.integers(5))
        )
        gap = self.pick("", " ", chr(10))
        text = f"<think>{thought}</think>{gap}<answer>{json.dumps(rows)}</answer>"
        return self.damage(text) if self.rng.random() < 0.25 else text

    def row(self, true) -> object:
        spread = self.pick(0, 3, 10, 30, 200)
        step = self.pick(1, 1, 0.25)

        def move(values: list[int]) -> list[float]:
            return [v + step * int(self.rng.integers(-spread, spread + 1)) for v in values]

        row = {"bbox_2d": move(true["bbox_2d"]), "point_2d": move(true["point_2d"])}
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
            row = self.pick(
                {},
                {"bbox_2d": [1, 2, 3, 4]},
                {"point_2d": [1, 2], "label": "x"},
                row | {"label": 1},
            )
        return row

    def damage(self, text: str) -> str:
        start, stop = sorted(int(i) for i in self.rng.integers(0, len(text) + 1, size=2))
        return self.pick(
            text.replace('"', "'"),
            "so " + text,
            text + " ",
            text.replace("<think>", ""),
            text.replace("</answer>", ""),
            text[:start] + text[stop:],
            text + text,
            text.replace("<answer>", "<answer>```json\n").replace("</answer>", "```</answer>"),
        )

    def anything(self, text: str) -> str:
        """Text with pieces cut out, doubled or replaced by what breaks parsers."""
        for _ in range(int(self.rng.integers(1, 5))):
            start, stop = sorted(int(i) for i in self.rng.integers(0, len(text) + 1, size=2))
            stop = min(stop, start + 40)
            piece = self.pick(text[start:stop] * 2, *HOSTILE)
            text = text[:start] + piece + text[stop:]
        return text


def many(seed: int) -> tuple[Sample, list[dict[str, list[int]]]]:
    """A video of one frame with up to four rectangles, and the truth at 840 x 840."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(int(rng.integers(1, 5))):
        x = int(rng.integers(0, 45))
        y = int(rng.integers(0, 25))
        w = 2 * int(rng.integers(1, 8)) + 1
        h = 2 * int(rng.integers(1, 8)) + 1
        boxes.append((x, y, min(x + w, 60), min(y + h, 40)))
    one = sample(1, boxes)
    truth = truth_in(one, 0, (840, 840))
    pairs = zip(
        truth.boxes_N4.astype(int).tolist(), truth.points_N2.astype(int).tolist(), strict=True
    )
    return one, [{"bbox_2d": b, "point_2d": p} for b, p in pairs]


def test_truth_is_scaled_as_in_vision_reasoners_data():
    truth = truth_in(sample(), 0, (840, 840))
    assert truth.boxes_N4.tolist() == [[140, 210, 266, 399], [560, 210, 686, 609]]
    x, y = truth.points_N2[0]
    assert 10 * 14 <= x <= 19 * 14
    assert 10 * 21 <= y <= 19 * 21


def test_the_reward_is_vision_reasoners():
    earned = []
    for seed in range(max(FUZZ // 20, 1)):
        one, truth = many(seed)
        fuzz = Fuzz(seed)
        texts = [fuzz.answer(truth) for _ in range(20)]
        system = VideoSegR1.make(TINY | VISION_REASONER)
        group = [play(text, one, **VISION_REASONER)[0] for text in texts]
        rewards = [reward.total for reward in system.score(one, group)]
        expected = [reference(text, truth) for text in texts]
        assert rewards == pytest.approx(expected, abs=1e-9), texts
        earned += rewards
    assert len({round(r, 3) for r in earned}) > 20
    assert max(earned) == 7


@pytest.mark.parametrize("iou_source", ["box", "mask"])
def test_no_completion_breaks_parser_or_reward(iou_source):
    one, truth = many(1)
    none = sample(1, boxes=())
    options = {"length_penalty": "paper", "iou_source": iou_source, "answer": "all"}
    system = VideoSegR1.make(TINY | VISION_REASONER | options)
    fuzz = Fuzz(1)
    asked = 0
    for _ in range(max(FUZZ // 20, 1)):
        texts = [
            fuzz.anything(fuzz.answer([t | {"neg_point_2d": [5, 5]} for t in truth]))
            for _ in range(20)
        ]
        group = [asyncio.run(system.play(one, ScriptedAsk(text))) for text in texts]
        for episode in group:
            json.dumps(episode.answer.to_json(), allow_nan=False)
            assert all(p.box or 1 in p.labels for p in episode.answer.prompts)
            asked += len(episode.answer.prompts)
        for of in (one, none):
            boxes = [[LEFT] * len(episode.answer.prompts) for episode in group]
            masks = drawn(of, *boxes)
            for reward in system.score(of, group, masks if iou_source == "mask" else None):
                assert all(math.isfinite(v) for v in (reward.total, *reward.parts.values()))
                assert all(0 <= v <= 3 for name, v in reward.parts.items() if name != "length")
    assert asked > FUZZ // 40, "few answers reach the segmenter: proves little"
