"""Rewards of VideoSeg-R1 for a group at once against one answer at a time: `python benchmarks/rewards.py`.

Groups of 8 answers about 1 to 10 objects in an image of 840 x 840, near the truth with the usual slips: objects left
out, named twice or elsewhere, broken JSON, a key missing, sentences said again, thoughts over the budget.

The other side is the same definition as a function of one answer, the way such rewards are published: regular
expressions, `json.loads`, numpy over all pairs, scipy's matching, and for the negative points a taxicab distance
transform of the union mask. That is scipy's in the first two rows, and in the third OpenCV's, which ours takes too,
once for each group: there the ratio can at most be 8. Both sides start from the text. True boxes, points and masks are
ready made for both, but in the second row both make them of the sample's run-length encodings, as training does.

Rewards must be equal to 1e-9. One process, one thread, CPU time, all sides in turns; ratios are of one round each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.ndimage import distance_transform_cdt
from scipy.optimize import linear_sum_assignment

# A script has its own folder first on the path, and there this file hides the package `rewards`, for all benchmarks.
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
if (
    __name__ == "rewards"
):  # imported in place of the package by another benchmark: which gets the package
    del sys.modules[__name__]
    importlib.import_module(__name__)
else:
    from core.masks import encode
    from core.points import resize_mask
    from core.types import Answer, End, Episode, Sample, Target, Turn, Video
    from rewards.objects import Thresholds, matched_mean, pair_scores
    from systems.videoseg_r1 import VideoSegR1
    from systems.videoseg_r1.answers import coordinates, strict_answer
    from systems.videoseg_r1.score import Truth, truth_in

GROUP = 8
MOST = 10
SIZE = (840, 840)
HEIGHT = 480
WIDTH = 854
TOLERANCE = 1e-9
WORDS = "the left right upper small large red blue dog cat man in front behind because it moves first then stands"
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A group."""

    sample: Sample
    episodes: tuple[Episode, ...]
    truth: Truth

    @property
    def answers(self) -> Iterator[tuple[str, int]]:
        """Text and reasoning tokens of each."""
        return ((e.turns[0].text, e.answer.reasoning_tokens or 0) for e in self.episodes)


# --- one answer at a time


def whole_reward(text: str, tokens: int, truth: Truth, budget: int, transform: Transform) -> float:
    """(think + answer format + accuracy + negative + non-repeat) x length of one answer."""
    think = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL) is not None
    sentences = [s.strip() for s in text.split(".") if s.strip()]
    fresh = len(sentences) - len(set(sentences)) < 2
    seg = 0.0
    try:
        found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        rows = json.loads(found.group(1)) if found else []
        wanted = {"bbox_2d": 4, "point_2d": 2, "neg_point_2d": 2}
        kept = [
            isinstance(r.get(k), list) and len(r[k]) == n for r in rows for k, n in wanted.items()
        ]
        seg = (
            sum(kept) / len(rows)
            + accuracy(text, truth)
            + negative(rows, transform(truth.union_HW))
        )
    except (ValueError, KeyError, ZeroDivisionError):
        pass
    length = max(1 - 0.01 * max(tokens - budget, 0), 0)
    return (think + fresh + seg) * length


def accuracy(text: str, truth: Truth) -> float:
    """VisionReasoner's: the best matching of objects by box IoU, box L1 and point distance, over max(M, N)."""
    try:
        found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        rows = json.loads(found.group(1)) if found else []
        a_M4 = np.array([r["bbox_2d"] for r in rows], dtype=float)
        at_M2 = np.array([r["point_2d"] for r in rows], dtype=float)
    except (ValueError, KeyError):
        return 0.0
    if not len(a_M4):
        return 0.0
    b_N4 = truth.boxes_N4
    low = np.maximum(a_M4[:, None, :2], b_N4[None, :, :2])
    high = np.minimum(a_M4[:, None, 2:], b_N4[None, :, 2:])
    sides = np.maximum(high - low + 1, 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a = (a_M4[:, 2] - a_M4[:, 0] + 1) * (a_M4[:, 3] - a_M4[:, 1] + 1)
    area_b = (b_N4[:, 2] - b_N4[:, 0] + 1) * (b_N4[:, 3] - b_N4[:, 1] + 1)
    iou = shared / (area_a[:, None] + area_b[None] - shared)
    l1 = np.abs(a_M4[:, None] - b_N4[None]).mean(axis=2)
    near = np.sqrt(((at_M2[:, None] - truth.points_N2[None]) ** 2).sum(axis=2)) < 30
    inside = np.all((at_M2 >= a_M4[:, :2]) & (at_M2 <= a_M4[:, 2:]), axis=1)
    scores = (iou > 0.5).astype(float) + (l1 < 10) + (near & inside[:, None])
    i, j = linear_sum_assignment(3 - scores)
    return float(scores[i, j].sum() / max(scores.shape))


def negative(rows: Sequence[Any], distance_HW: np.ndarray) -> float:
    """Share of the negative points that lie off all objects and within 40 pixels of one."""
    points = [r["neg_point_2d"] for r in rows if "neg_point_2d" in r]
    good = 0
    for x, y in points:
        if 0 <= x < distance_HW.shape[1] and 0 <= y < distance_HW.shape[0]:
            good += 0 < distance_HW[int(y), int(x)] <= 40
    return good / len(points) if points else 0.0


def by_scipy(union_HW: np.ndarray) -> np.ndarray:
    return distance_transform_cdt(~union_HW, metric="taxicab")


def by_opencv(union_HW: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~union_HW).astype(np.uint8), cv2.DIST_L1, 3)


# --- groups


def picture(uid: str, num_objects: int, rng: np.random.Generator) -> Sample:
    """An image of ellipses, as a video of one frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    targets = []
    for i in range(num_objects):
        cy, cx, ry, rx = (
            rng.uniform(60, HEIGHT - 60),
            rng.uniform(60, WIDTH - 60),
            *rng.uniform(15, 60, size=2),
        )
        targets.append(Target(str(i), (encode(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1),)))
    return Sample(uid, Video("v", "v", ("0",), HEIGHT, WIDTH), "them", tuple(targets))


def answer(rows: Sequence[dict[str, list[int]]], rng: np.random.Generator) -> str:
    """The right rows with noise: boxes and points a few pixels off, sometimes an object more, less or elsewhere."""
    order = [rows[i] for i in rng.permutation(len(rows))]
    order = order[: max(len(order) - int(rng.integers(3)), 1)] if rng.random() < 0.3 else order
    order = [*order, order[0]][:MOST] if rng.random() < 0.2 else order
    said = []
    for row in order:
        off = 60 if rng.random() < 0.15 else 6
        said.append(
            {key: [int(v + rng.normal(0, off)) for v in values] for key, values in row.items()}
        )
    if rng.random() < 0.05:
        said[0].pop("point_2d")
    thought = ". ".join(
        " ".join(rng.choice(WORDS.split(), size=8)) for _ in range(int(rng.integers(3, 11)))
    )
    thought = f"{thought}. {thought}" if rng.random() < 0.1 else thought
    text = f"<think>{thought}.</think>{rng.choice(['', ' '])}<answer>{json.dumps(said)}</answer>"
    return text.replace("}]", "}") if rng.random() < 0.05 else text


def case(uid: str, num_objects: int) -> Case:
    rng = np.random.default_rng(int(uid))
    system = VideoSegR1()
    sample = picture(uid, num_objects, rng)
    ((_, right),) = system.demonstrate(sample, rng)
    episodes = []
    for text in (answer(strict_answer(right) or [], rng) for _ in range(GROUP)):
        tokens = len(text.partition("<answer>")[0].split())
        made = Answer(keyframe=0, reasoning_tokens=tokens)
        episodes.append(Episode(uid, (Turn((), (), (), text, (), True, 0),), End.DONE, made))
    return Case(
        sample, tuple(episodes), at_target_size(truth_in(sample, 0, system.options.target_hw))
    )


def at_target_size(truth: Truth) -> Truth:
    return replace(truth, union_HW=resize_mask(truth.union_HW, SIZE))


# --- both sides


def whole(system: VideoSegR1, cases: Sequence[Case]) -> list[float]:
    return [reward.total for c in cases for reward in system.score(c.sample, c.episodes)]


def boxes_and_points(cases: Sequence[Case]) -> list[float]:
    """Accuracy, as `VideoSegR1.score` computes it."""
    found = []
    for c in cases:
        read_G = [coordinates(strict_answer(text)) for text, _ in c.answers]
        rows_R6 = torch.from_numpy(
            np.array([row for rows in read_G for row in rows], dtype=np.float64).reshape(-1, 6)
        )
        truth = torch.from_numpy(c.truth.boxes_N4), torch.from_numpy(c.truth.points_N2)
        scores_RN = pair_scores(rows_R6[:, :4], rows_R6[:, 4:], *truth, Thresholds())
        found += matched_mean(scores_RN, [len(rows) for rows in read_G]).tolist()
    return found


def one_by_one(cases: Sequence[Case], transform: Transform) -> list[float]:
    budget = VideoSegR1().options.budget.medium  # of a sample without ratings
    return [
        whole_reward(text, used, c.truth, budget, transform)
        for c in cases
        for text, used in c.answers
    ]


def one_by_one_from_encodings(cases: Sequence[Case]) -> list[float]:
    system = VideoSegR1()
    found = []
    for c in cases:
        for text, used in c.answers:
            truth = at_target_size(truth_in(c.sample, 0, system.options.target_hw))
            found.append(whole_reward(text, used, truth, system.options.budget.medium, by_scipy))
    return found


def seconds(work: Callable[[], object]) -> float:
    """Of CPU time, all threads of the process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=20, help="objects in turn 1 to 10")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cases = [case(str(i), 1 + i % MOST) for i in range(arguments.groups)]
    system = VideoSegR1()
    prepared = VideoSegR1()
    truths = {c.sample.uid: c.truth for c in cases}
    prepared._truth = lambda sample, frame: truths[sample.uid]  # type: ignore[method-assign]
    rows: list[tuple[str, Callable[[], list[float]], Callable[[], list[float]], float]] = [
        ("whole reward", lambda: one_by_one(cases, by_scipy), lambda: whole(prepared, cases), 10.0),
        (
            "whole, from encodings",
            lambda: one_by_one_from_encodings(cases),
            lambda: whole(system, cases),
            0.0,
        ),
        (
            "whole, both OpenCV",
            lambda: one_by_one(cases, by_opencv),
            lambda: whole(prepared, cases),
            0.0,
        ),
        (
            "boxes and points",
            lambda: [accuracy(text, c.truth) for c in cases for text, _ in c.answers],
            lambda: boxes_and_points(cases),
            1.0,
        ),
    ]
    for name, slow, fast, _ in rows:
        apart = np.abs(np.array(slow()) - fast()).max()
        assert apart <= TOLERANCE, f"{name}: rewards {apart} apart"
        assert len(set(fast())) > GROUP, f"{name}: rewards do not differ"
    times = [
        [(seconds(slow), seconds(fast)) for _, slow, fast, _ in rows]
        for _ in range(arguments.rounds)
    ]
    title = f"{len(cases)} groups of {GROUP}, {SIZE[0]} x {SIZE[1]}, one thread, {arguments.rounds} rounds: median (range)"
    table = Table("answers a second", "one by one", "ours", "ratio", title=title, box=box.MARKDOWN)
    missed = []
    for i, (name, _, _, required) in enumerate(rows):
        ratios = [round_[i][0] / round_[i][1] for round_ in times]
        speeds = [[GROUP * len(cases) / round_[i][side] for round_ in times] for side in (0, 1)]
        table.add_row(name, *(spread(s, ",.0f") for s in speeds), spread(ratios, ".2f"))
        if statistics.median(ratios) < required:
            missed.append(f"{name}: the median ratio is below {required:g}")
    Console(width=110).print(table)
    if missed:
        sys.exit("\n".join(missed))


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
