"""Measured episodes, the figures of an evaluation, and its two files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.files import json_line, replacing, write_atomic
from core.types import End, Episode, Reward, Rle, Sample
from ray_jobs.record.run_folder import episode_line
from ray_jobs.record.words import Words

# With this file the folder of an evaluation is whole.
SUMMARY = "summary.json"
COLUMNS = ("uid", "kind", "query", "J", "F", "J&F", "reward", "parts", "end", "answer")


@dataclass(frozen=True)
class Result:
    """One measured episode of one expression.

    Attributes:
        sample: The expression.
        episode: Its episode.
        masks_F: The predicted mask of each frame; empty if they were not kept.
        reward: None for a failed episode, without public truth, and where frames are not labelled.
        scores: Figures of `core.evaluation.protocols.measure`, as fractions; empty without public
            truth.
        objects_OF: The masks of each of several objects; empty with public truth.
    """

    sample: Sample
    episode: Episode
    masks_F: tuple[Rle | None, ...]
    reward: Reward | None
    scores: Mapping[str, float]
    objects_OF: tuple[tuple[Rle | None, ...], ...] = ()

    @property
    def j(self) -> float:
        return self.scores.get("J", 0.0)

    @property
    def f(self) -> float:
        return self.scores.get("F", 0.0)

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2

    @property
    def total(self) -> float:
        """The total reward; 0 without one."""
        if self.reward is None:
            return 0.0
        return self.reward.total

    @property
    def parts(self) -> Mapping[str, float]:
        """The parts of the reward; none without one."""
        if self.reward is None:
            return {}
        return self.reward.parts

    def figure(self, name: str) -> float:
        """Return "j", "f" or "jf" in percent, or "reward" as it is."""
        if name == "reward":
            return self.total
        values = {"j": self.j, "f": self.f, "jf": self.jf}
        return 100.0 * values[name]


@dataclass(frozen=True)
class Evaluation:
    """All results of one evaluation; an expression has one for each of its repeats."""

    results: tuple[Result, ...]

    @property
    def rewarded(self) -> tuple[Result, ...]:
        """The results but those of videos with unlabelled frames, which have no reward."""
        known = [result for result in self.results if not result.sample.notes.others_unknown]
        return tuple(known)

    def per_expression(self, name: str) -> dict[str, float]:
        """Return a figure (`Result.figure`) as the mean over the repeats of each expression."""
        values: dict[str, list[float]] = {}
        for result in self.rewarded if name == "reward" else self.results:
            repeats = values.setdefault(result.sample.uid, [])
            repeats.append(result.figure(name))

        means = {}
        for uid, repeats in values.items():
            means[uid] = float(np.mean(repeats))
        return means

    def mean(self, name: str) -> float:
        """Return the mean of a figure over the expressions; 0 if none has it."""
        values = list(self.per_expression(name).values())
        return float(np.mean(values)) if values else 0.0

    @property
    def means(self) -> dict[str, float]:
        """The means "jf" (percent) and "reward", as `read_means` returns them."""
        return {"jf": self.mean("jf"), "reward": self.mean("reward")}

    def reward_jf_correlation(self) -> float | None:
        """Return the correlation of reward and J&F within expressions.

        It tells how well the reward ranks the episodes of a group. Pearson's r of the deviations
        from each expression's mean; failed episodes are left out. None if reward or J&F does not
        vary, as without repeats.
        """
        pairs: dict[str, list[tuple[float, float]]] = {}
        for result in self.rewarded:
            if result.episode.end is End.FAILED:
                continue
            repeats = pairs.setdefault(result.sample.uid, [])
            repeats.append((result.total, result.jf))

        # Differences between expressions say how hard they are, so each is compared with itself.
        deviations = []
        for repeats in pairs.values():
            repeats_N2 = np.array(repeats)
            deviations.extend(repeats_N2 - repeats_N2.mean(axis=0))
        deviations_N2 = np.array(deviations)
        # Without variation Pearson's r is 0 / 0.
        if not len(deviations_N2):
            return None
        largest_2 = np.abs(deviations_N2).max(axis=0)
        if (largest_2 < 1e-9).any():
            return None
        return float(np.corrcoef(deviations_N2.T)[0, 1])


def mean_parts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each part over some rewards; a reward without the part counts as 0."""
    names = sorted(set().union(*parts))
    means = {}
    for name in names:
        values = [one.get(name, 0.0) for one in parts]
        means[name] = float(np.mean(values))
    return means


def paired_gain(
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> tuple[float, float]:
    """Return the mean difference over expressions and its standard error.

    The standard error is s / sqrt(n), with the standard deviation s of the paired differences.
    """
    assert before.keys() == after.keys(), "paired evaluations must cover the same expressions"
    differences = np.array([after[uid] - before[uid] for uid in before])
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean()), float(error)


def best_and_worst(results: Sequence[Result], count: int) -> list[Result]:
    """Return the `count` best and the `count` worst results by J&F, one for each expression."""
    # Of several repeats the last one stands for its expression.
    newest = {result.sample.uid: result for result in results}
    ranked = sorted(newest.values(), key=lambda result: -result.jf)
    best = ranked[:count]
    # With few results the two must not overlap.
    worst = ranked[max(count, len(ranked) - count) :]
    return best + worst


def write_evaluation(folder: Path, evaluation: Evaluation, words: Words | None = None) -> None:
    """Write episodes.jsonl and per_expression.csv, then summary.json: with it all is whole.

    Args:
        words: Query and prompts go into the lines of episodes.jsonl too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / "per_expression.csv") as fresh,
        fresh.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for result in evaluation.results:
            table.writerow(_row(result))
    lines = [json_line(line) for line in _episode_lines(evaluation, words)]
    write_atomic(folder / "episodes.jsonl", "".join(lines))
    write_atomic(folder / SUMMARY, json.dumps(_summary(evaluation), indent=2) + "\n")


def _episode_lines(evaluation: Evaluation, words: Words | None) -> Iterator[dict[str, Any]]:
    """Yield a line for each result, in the form of a run's episodes.jsonl."""
    repeats: Counter[str] = Counter()
    for result in evaluation.results:
        uid = result.sample.uid
        head: dict[str, Any] = {"sample": uid, "episode": repeats[uid]}
        if words is not None:
            head |= words.about(uid)
        line = episode_line(result.episode, result.reward, None, words)
        yield head | line | {"scores": dict(result.scores)}
        repeats[uid] += 1


def read_means(folder: Path) -> dict[str, float] | None:
    """Return the means "jf" (percent) and "reward" of a written evaluation; None without one."""
    file = folder / SUMMARY
    if not file.exists():
        return None
    summary = json.loads(file.read_text(encoding="utf-8"))
    return {"jf": summary["J&F"], "reward": summary["reward"]}


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    jf_by_kind: dict[str, list[float]] = {}
    ends: dict[str, int] = {}
    for result in evaluation.results:
        end = result.episode.end.value
        ends[end] = ends.get(end, 0) + 1
        jf_by_kind.setdefault(result.sample.kind, []).append(result.jf)

    kinds = {}
    for kind in sorted(jf_by_kind):
        kinds[kind] = 100 * float(np.mean(jf_by_kind[kind]))
    return {
        "expressions": len(evaluation.per_expression("jf")),
        "J": evaluation.mean("j"),
        "F": evaluation.mean("f"),
        "J&F": evaluation.mean("jf"),
        "reward": evaluation.mean("reward"),
        "reward_parts": mean_parts([result.parts for result in evaluation.rewarded]),
        "reward_jf_correlation": evaluation.reward_jf_correlation(),
        "J&F_by_kind": kinds,
        "ends": dict(sorted(ends.items())),
    }


def _row(result: Result) -> list[str]:
    parts = {}
    for name, value in result.parts.items():
        parts[name] = round(value, 4)
    return [
        result.sample.uid,
        result.sample.kind,
        result.sample.query,
        f"{result.j:.4f}",
        f"{result.f:.4f}",
        f"{result.jf:.4f}",
        f"{result.total:.4f}",
        json.dumps(parts),
        result.episode.end.value,
        json.dumps(result.episode.answer.to_json()),
    ]
