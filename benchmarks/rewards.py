"""Rewards of VideoSeg-R1 for a group at once against one answer at a time.

    python -m benchmarks.rewards

Groups of 8 answers about 1 to 10 objects in an image of 840 x 840, near the truth with the usual
slips: objects left out, named twice or elsewhere, broken JSON, a key missing, sentences said again,
thoughts over the budget.

The other side is the same definition as a function of one answer, the way such rewards are
published: regular expressions, `json.loads`, numpy over all pairs, scipy's matching, and for the
negative points a taxicab distance transform of the union mask. In the first two rows that is
scipy's. In the third it is OpenCV's, used by this project too, once for each group: there the ratio
can at most be 8. Both sides start from the text. True boxes, points and masks are ready made for
both, except in the second row: there both make them from the sample's run-length encodings, as
training does.

Rewards must be equal to 1e-9. One process, one thread, CPU time, all sides in turns; ratios are of
one round each.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.ndimage import distance_transform_cdt
from scipy.optimize import linear_sum_assignment

from benchmarks.measuring import argument_parser, cpu_seconds, spread
from core.masks import encode
from core.points import resize_mask
from core.types import Answer, End, Episode, Sample, Target, Turn, Video
from rewards.objects import Thresholds, matched_mean, pair_scores
from systems.videoseg_r1 import VideoSegR1, score
from systems.videoseg_r1.answers import coordinates, strict_answer
from systems.videoseg_r1.score import Truth, truth_in

GROUP = 8
MOST = 10
SIZE = (840, 840)
HEIGHT = 480
WIDTH = 854
TOLERANCE = 1e-9
SENTENCE = "the left right upper small large red blue dog cat man in front behind because it stands"
WORDS = SENTENCE.split()
KEYS = {"bbox_2d": 4, "point_2d": 2, "neg_point_2d": 2}

Transform = Callable[[np.ndarray], np.ndarray]
Work = Callable[[], list[float]]


@dataclass(frozen=True)
class Case:
    """A group: its sample, its episodes, and the truth at the size of the answers."""

    sample: Sample
    episodes: tuple[Episode, ...]
    truth: Truth


@dataclass(frozen=True)
class Comparison:
    """A row of the table; `required` is the smallest ratio allowed."""

    name: str
    one_by_one: Work
    ours: Work
    required: float = 0.0


# --- one answer at a time


def whole_reward(text: str, tokens: int, truth: Truth, budget: int, transform: Transform) -> float:
    """(think + answer format + accuracy + negative + non-repeat) x length of one answer."""
    pattern = r"<think>.*?</think>\s*<answer>.*?</answer>"
    think = re.fullmatch(pattern, text, re.DOTALL) is not None
    sentences = [s.strip() for s in text.split(".") if s.strip()]
    non_repeat = len(sentences) - len(set(sentences)) < 2
    located = 0.0
    try:
        rows = answer_rows(text)
        located = answer_format(rows) + accuracy(text, truth)
        located += negative(rows, transform(truth.union_HW))
    except (ValueError, KeyError, ZeroDivisionError):
        located = 0.0
    length = max(1 - 0.01 * max(tokens - budget, 0), 0)
    return (think + non_repeat + located) * length


def answer_rows(text: str) -> Any:
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return json.loads(found.group(1)) if found else []


def answer_format(rows: Sequence[Any]) -> float:
    kept = 0
    for row in rows:
        for key, length in KEYS.items():
            kept += isinstance(row.get(key), list) and len(row[key]) == length
    return kept / len(rows)


def accuracy(text: str, truth: Truth) -> float:
    """VisionReasoner's: the best matching by box IoU, box L1 and point distance, over max(M, N)."""
    try:
        rows = answer_rows(text)
        boxes_M4 = np.array([row["bbox_2d"] for row in rows], dtype=float)
        points_M2 = np.array([row["point_2d"] for row in rows], dtype=float)
    except (ValueError, KeyError):
        return 0.0
    if not len(boxes_M4):
        return 0.0
    truth_N4 = truth.boxes_N4
    l1_MN = np.abs(boxes_M4[:, None] - truth_N4[None]).mean(axis=2)
    squares_MN2 = (points_M2[:, None] - truth.points_N2[None]) ** 2
    near_MN = np.sqrt(squares_MN2.sum(axis=2)) < 30
    inside_M2 = (points_M2 >= boxes_M4[:, :2]) & (points_M2 <= boxes_M4[:, 2:])
    inside_M1 = np.all(inside_M2, axis=1, keepdims=True)
    scores_MN = (pairwise_iou(boxes_M4, truth_N4) > 0.5).astype(float)
    scores_MN = scores_MN + (l1_MN < 10) + (near_MN & inside_M1)
    matching = linear_sum_assignment(3 - scores_MN)
    return float(scores_MN[matching].sum() / max(scores_MN.shape))


def pairwise_iou(a_M4: np.ndarray, b_N4: np.ndarray) -> np.ndarray:
    """IoU of every pair of boxes, the last row and column inside, (M, N)."""
    low = np.maximum(a_M4[:, None, :2], b_N4[None, :, :2])
    high = np.minimum(a_M4[:, None, 2:], b_N4[None, :, 2:])
    sides = np.maximum(high - low + 1, 0)
    shared = sides[..., 0] * sides[..., 1]
    sides_a = a_M4[:, 2:] - a_M4[:, :2] + 1
    sides_b = b_N4[:, 2:] - b_N4[:, :2] + 1
    area_a = sides_a[:, 0] * sides_a[:, 1]
    area_b = sides_b[:, 0] * sides_b[:, 1]
    return shared / (area_a[:, None] + area_b[None] - shared)


def negative(rows: Sequence[Any], distance_HW: np.ndarray) -> float:
    """Share of the negative points off all objects but within 40 pixels of one."""
    points = [row["neg_point_2d"] for row in rows if "neg_point_2d" in row]
    height, width = distance_HW.shape
    good = 0
    for x, y in points:
        if 0 <= x < width and 0 <= y < height:
            good += 0 < distance_HW[int(y), int(x)] <= 40
    return good / len(points) if points else 0.0


def by_scipy(union_HW: np.ndarray) -> np.ndarray:
    return distance_transform_cdt(~union_HW, metric="taxicab")


def by_opencv(union_HW: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~union_HW).astype(np.uint8), cv2.DIST_L1, 3)


# --- groups


def make_picture(uid: str, num_objects: int, rng: np.random.Generator) -> Sample:
    """An image of ellipses, as a video of one frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    targets = []
    for number in range(num_objects):
        cy = rng.uniform(60, HEIGHT - 60)
        cx = rng.uniform(60, WIDTH - 60)
        ry, rx = rng.uniform(15, 60, size=2)
        mask_HW = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        targets.append(Target(str(number), (encode(mask_HW),)))
    return Sample(uid, Video("v", "v", ("0",), HEIGHT, WIDTH), "them", tuple(targets))


def noisy_answer(right: Sequence[dict[str, list[int]]], rng: np.random.Generator) -> str:
    """The right rows a few pixels off, sometimes with an object more, less or elsewhere."""
    rows = [right[i] for i in rng.permutation(len(right))]
    if rng.random() < 0.3:
        rows = rows[: max(len(rows) - int(rng.integers(3)), 1)]
    if rng.random() < 0.2:
        rows = [*rows, rows[0]][:MOST]
    noisy = []
    for row in rows:
        off = 60 if rng.random() < 0.15 else 6
        moved = {}
        for key, values in row.items():
            moved[key] = [int(value + rng.normal(0, off)) for value in values]
        noisy.append(moved)
    if rng.random() < 0.05:
        noisy[0].pop("point_2d")
    text = f"<think>{thought(rng)}.</think>{rng.choice(['', ' '])}"
    text += f"<answer>{json.dumps(noisy)}</answer>"
    if rng.random() < 0.05:
        text = text.replace("}]", "}")
    return text


def thought(rng: np.random.Generator) -> str:
    sentences = []
    for _ in range(int(rng.integers(3, 11))):
        sentences.append(" ".join(rng.choice(WORDS, size=8)))
    whole = ". ".join(sentences)
    if rng.random() < 0.1:
        whole = f"{whole}. {whole}"
    return whole


def make_case(uid: str, num_objects: int) -> Case:
    rng = np.random.default_rng(int(uid))
    sample = make_picture(uid, num_objects, rng)
    ((_, right),) = VideoSegR1().demonstrate(sample, rng)
    rows = strict_answer(right) or []
    episodes = []
    for _ in range(GROUP):
        text = noisy_answer(rows, rng)
        tokens = len(text.partition("<answer>")[0].split())
        answer = Answer(keyframe=0, reasoning_tokens=tokens)
        turn = Turn((), (), (), text, (), True, 0)
        episodes.append(Episode(uid, (turn,), End.DONE, answer))
    return Case(sample, tuple(episodes), truth_at_size(sample))


def truth_at_size(sample: Sample) -> Truth:
    truth = truth_in(sample, 0, VideoSegR1().options.target_hw)
    return replace(truth, union_HW=resize_mask(truth.union_HW, SIZE))


# --- both sides


def ours(cases: Sequence[Case]) -> list[float]:
    system = VideoSegR1()
    totals: list[float] = []
    for case in cases:
        totals += [reward.total for reward in system.score(case.sample, case.episodes)]
    return totals


def ours_accuracy(cases: Sequence[Case]) -> list[float]:
    """Accuracy, as `VideoSegR1.score` computes it."""
    system = VideoSegR1()
    found: list[float] = []
    for case in cases:
        rows: list[tuple[float, ...]] = []
        counts = []
        for episode in case.episodes:
            objects = coordinates(strict_answer(episode.turns[0].text), system.target_grid)
            rows += objects
            counts.append(len(objects))
        rows_R6 = torch.from_numpy(np.array(rows, dtype=np.float64).reshape(-1, 6))
        scores_RN = pair_scores(
            rows_R6[:, :4],
            rows_R6[:, 4:],
            torch.from_numpy(case.truth.boxes_N4),
            torch.from_numpy(case.truth.points_N2),
            Thresholds(),
        )
        found += matched_mean(scores_RN, counts).tolist()
    return found


def one_by_one(
    cases: Sequence[Case], transform: Transform, from_encodings: bool = False
) -> list[float]:
    # The budget of a sample without ratings.
    budget = VideoSegR1().options.budget.medium
    totals = []
    for case in cases:
        for episode in case.episodes:
            truth = truth_at_size(case.sample) if from_encodings else case.truth
            tokens = episode.answer.reasoning_tokens or 0
            text = episode.turns[0].text
            totals.append(whole_reward(text, tokens, truth, budget, transform))
    return totals


def one_by_one_accuracy(cases: Sequence[Case]) -> list[float]:
    found = []
    for case in cases:
        for episode in case.episodes:
            found.append(accuracy(episode.turns[0].text, case.truth))
    return found


def with_ready_truth(cases: Sequence[Case]) -> AbstractContextManager[object]:
    """Give `score` the truth of the cases instead of letting it decode the sample's encodings."""
    truths = {case.sample.uid: case.truth for case in cases}

    def ready(sample: Sample, frame: int, target_hw: tuple[int, int]) -> Truth:
        return truths[sample.uid]

    return patch.object(score, "truth_in", ready)


def comparisons(cases: Sequence[Case]) -> list[Comparison]:
    def ours_ready() -> list[float]:
        with with_ready_truth(cases):
            return ours(cases)

    return [
        Comparison("whole reward", lambda: one_by_one(cases, by_scipy), ours_ready, 10.0),
        Comparison(
            "whole, from encodings",
            lambda: one_by_one(cases, by_scipy, from_encodings=True),
            lambda: ours(cases),
        ),
        Comparison("whole, both OpenCV", lambda: one_by_one(cases, by_opencv), ours_ready),
        Comparison(
            "boxes and points",
            lambda: one_by_one_accuracy(cases),
            lambda: ours_accuracy(cases),
            1.0,
        ),
    ]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--groups", type=int, default=20, help="objects in turn 1 to 10")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cases = [make_case(str(i), 1 + i % MOST) for i in range(arguments.groups)]
    rows = comparisons(cases)
    for row in rows:
        rewards = row.ours()
        apart = np.abs(np.array(row.one_by_one()) - rewards).max()
        assert apart <= TOLERANCE, f"{row.name}: rewards {apart} apart"
        assert len(set(rewards)) > GROUP, f"{row.name}: rewards do not differ"

    # Seconds by round, row and side.
    seconds = np.zeros((arguments.rounds, len(rows), 2))
    for number in range(arguments.rounds):
        for column, row in enumerate(rows):
            seconds[number, column, 0] = cpu_seconds(row.one_by_one)
            seconds[number, column, 1] = cpu_seconds(row.ours)

    title = (
        f"{len(cases)} groups of {GROUP}, {SIZE[0]} x {SIZE[1]}, one thread, "
        f"{arguments.rounds} rounds: median (range)"
    )
    table = Table("answers a second", "one by one", "ours", "ratio", title=title, box=box.MARKDOWN)
    answers = GROUP * len(cases)
    missed = []
    for column, row in enumerate(rows):
        theirs_s, ours_s = seconds[:, column].T
        ratios = theirs_s / ours_s
        speeds = [spread(answers / theirs_s, ",.0f"), spread(answers / ours_s, ",.0f")]
        table.add_row(row.name, *speeds, spread(ratios))
        if statistics.median(ratios) < row.required:
            missed.append(f"{row.name}: the median ratio is below {row.required:g}")
    Console(width=110).print(table)
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
