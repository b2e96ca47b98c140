"""Evaluation: episodes -> masks by the segmenter, from what a policy points at or draws -> figures for each expression.

`ray_jobs.train` calls `evaluate` before, while and after it trains; the job `ray_jobs.evaluate` uses its parts. The
episodes are played by the same rollout actors as in training, with one episode (or `repeats`) an expression: there is
no second inference path.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.drawing import Drawn, prompts_of
from actors.reward import RewardPool, Scoring
from actors.rollout import Played, RolloutPool
from actors.segmenter import SegmenterPool
from core.evaluation.protocols import measure
from core.masks import decode_frames, union_of_targets
from core.types import End, Episode, Rle, Sample
from ray_jobs.record.progress import Progress

TOGETHER = 32  # groups whose masks a policy draws in one go, while others still play
EVAL_STEP = -1  # seeds of evaluation episodes: never those of a training step


@dataclass(frozen=True)
class Result:
    """One episode of one expression, measured."""

    sample: Sample
    episode: Episode
    masks_F: tuple[Rle | None, ...]
    j: float
    f: float
    reward: float
    parts: dict[str, float]

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class Evaluation:
    results: tuple[Result, ...]

    def per_expression(self, what: str) -> dict[str, float]:
        """Mean of "jf", "j", "f" or "reward" over the repeats of each expression, in percent but for the reward."""
        scale = 1.0 if what == "reward" else 100.0
        values: dict[str, list[float]] = {}
        for r in self.results:
            values.setdefault(r.sample.uid, []).append(scale * getattr(r, what))
        return {uid: float(np.mean(v)) for uid, v in values.items()}

    def mean(self, what: str) -> float:
        return float(np.mean(list(self.per_expression(what).values())))

    def reward_jf_correlation(self) -> float | None:
        """Correlation of reward and J&F within expressions: how well what a group is paid for tells its J&F.

        Pearson's r of the deviations from each expression's mean, FAILED episodes left out. None where one of the two
        does not vary, as without repeats.
        """
        rows: dict[str, list[tuple[float, float]]] = {}
        for r in self.results:
            if r.episode.end is not End.FAILED:
                rows.setdefault(r.sample.uid, []).append((r.reward, r.jf))
        apart_N2 = np.array(
            [row for v in rows.values() for row in np.array(v) - np.mean(v, axis=0)]
        )
        if not len(apart_N2) or (np.abs(apart_N2).max(axis=0) < 1e-9).any():
            return None
        return float(np.corrcoef(apart_N2.T)[0, 1])


def mean_parts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each part of the rewards of some episodes; one that lacks a part counts 0."""
    names = sorted({name for one in parts for name in one})
    return {name: float(np.mean([one.get(name, 0.0) for one in parts])) for name in names}


def paired_gain(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float]:
    """Mean difference over the expressions and its standard error, s / sqrt(n) of the paired differences."""
    assert before.keys() == after.keys(), "paired evaluations must cover the same expressions"
    differences = np.array([after[uid] - before[uid] for uid in before])
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def stop_on_failures(episodes: Sequence[Episode], max_share: float, total: int = 0) -> None:
    """Raises what the first FAILED episode died of when more than `max_share` of them (or of `total`) failed: a
    ValueError that names file and remedy if the data or settings are wrong, else a RuntimeError with the traceback."""
    failed = [e for e in episodes if e.end is End.FAILED]
    total = total or len(episodes)
    if len(failed) <= max_share * total:
        return
    why = f"{len(failed)} of {total} episodes failed, more than rollout.max_failed_share={max_share:g}"
    kind, _, text = failed[0].error.strip().splitlines()[-1].partition(": ")
    if kind == "ValueError":
        raise ValueError(f"{text} ({why})")
    raise RuntimeError(f"{why}. The first one:\n{failed[0].error}")


def truth_FHW(sample: Sample) -> np.ndarray:
    """Union of the targets' masks, (F, H, W) bool."""
    return decode_frames(union_of_targets(sample), sample.video.height, sample.video.width)


def evaluate(
    samples: Sequence[Sample],
    split: str,
    rollouts: RolloutPool,
    rewards: RewardPool,
    segmenters: SegmenterPool,
    progress: Progress,
    *,
    title: str,
    temperature: float = 0.0,
    repeats: int = 1,
    max_failed_share: float = 0.0,
    draw: Callable[[Sequence[Played]], list[Drawn]] | None = None,
) -> Evaluation:
    """Plays `repeats` episodes of each sample, makes their masks and measures them against the ground truth.

    `draw`: of a policy that draws masks itself.
    Errors as `stop_on_failures`; below its bound a FAILED episode counts as an empty answer, here and before alike.
    """
    played: list[tuple[Sample, tuple[Episode, ...], Drawn, Scoring]] = []
    waiting: list[Played] = []

    def score() -> None:
        for group, drawn in zip(
            waiting, draw(waiting) if draw else [None] * len(waiting), strict=True
        ):
            scoring = rewards.submit(split, group.sample.uid, group.episodes, drawn)
            played.append((group.sample, group.episodes, drawn or ((),) * repeats, scoring))
        waiting.clear()

    with progress.phase(f"{title}: play", total=len(samples)) as phase:
        for group in rollouts.play(
            samples, group_size=repeats, temperature=temperature, step=EVAL_STEP
        ):
            waiting.append(group)
            if not draw or len(waiting) == TOGETHER:
                score()
            phase.advance(1)
        score()
    order = {sample.uid: i for i, sample in enumerate(samples)}
    played.sort(key=lambda item: order[item[0].uid])
    stop_on_failures([e for _, episodes, _, _ in played for e in episodes], max_failed_share)
    jobs = [
        (sample.video, prompts_of(episode, made))
        for sample, episodes, drawn, _ in played
        for episode, made in zip(episodes, drawn, strict=True)
    ]
    with progress.phase(f"{title}: segment", total=1):
        masks = iter(segmenters.segment(jobs))
    results = []
    for sample, episodes, _, scoring in played:
        for episode, reward in zip(episodes, rewards.collect(scoring), strict=True):
            rles_F = tuple(next(masks))
            scores = measure(sample, rles_F).scores
            total, parts = (reward.total, reward.parts) if reward else (0.0, {})
            results.append(Result(sample, episode, rles_F, scores["J"], scores["F"], total, parts))
    return Evaluation(tuple(results))


def write(folder: Path, evaluation: Evaluation) -> None:
    """Writes summary.json and per_expression.csv into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = sorted({r.sample.kind for r in evaluation.results})
    summary: dict[str, Any] = {
        "expressions": len(evaluation.per_expression("jf")),
        "J": evaluation.mean("j"),
        "F": evaluation.mean("f"),
        "J&F": evaluation.mean("jf"),
        "reward": evaluation.mean("reward"),
        "reward_parts": mean_parts([r.parts for r in evaluation.results]),
        "reward_jf_correlation": evaluation.reward_jf_correlation(),  # within expressions
        "J&F_by_kind": {
            k: _mean_jf([r for r in evaluation.results if r.sample.kind == k]) for k in kinds
        },
        "ends": {
            e: sum(r.episode.end.value == e for r in evaluation.results) for e in _ends(evaluation)
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with open(folder / "per_expression.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["uid", "kind", "query", "J", "F", "J&F", "reward", "parts", "end", "answer"]
        )
        for r in evaluation.results:
            row = [
                r.sample.uid,
                r.sample.kind,
                r.sample.query,
                f"{r.j:.4f}",
                f"{r.f:.4f}",
                f"{r.jf:.4f}",
            ]
            row += [
                f"{r.reward:.4f}",
                json.dumps({name: round(worth, 4) for name, worth in r.parts.items()}),
            ]
            table.writerow([*row, r.episode.end.value, json.dumps(r.episode.answer.to_json())])


def _mean_jf(results: Sequence[Result]) -> float:
    return 100 * float(np.mean([r.jf for r in results]))


def _ends(evaluation: Evaluation) -> list[str]:
    return sorted({r.episode.end.value for r in evaluation.results})


def best_and_worst(results: Sequence[Result], count: int) -> list[Result]:
    """`count` of the best and `count` of the worst results, of distinct expressions."""
    ranked = sorted({r.sample.uid: r for r in results}.values(), key=lambda r: -r.jf)
    return ranked[:count] + ranked[max(count, len(ranked) - count) :]
