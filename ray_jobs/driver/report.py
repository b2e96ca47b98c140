"""The report of a finished training run: summary.json, table before and after, overlay videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.load import video_objects
from ray_jobs.driver.blind import blind_jf
from ray_jobs.driver.overlays import OVERLAYS, write_overlays
from ray_jobs.driver.results import Evaluation, best_and_worst, paired_gain
from ray_jobs.driver.run import Run

# Figure -> expression uid -> value. These travel in the checkpoint's state.
Values = dict[str, dict[str, float]]
# "greedy" or "sampled" -> values; empty if not measured.
Measurement = Mapping[str, Values]

FIGURES = ("jf", "reward")
# Rows of the final table.
TABLE = (
    ("sampled", "reward"),
    ("sampled", "jf"),
    ("greedy", "reward"),
    ("greedy", "jf"),
)


def values_of(evaluation: Evaluation) -> Values:
    """Return the values for the paired table, ready for JSON."""
    return {figure: evaluation.per_expression(figure) for figure in FIGURES}


def report(
    run: Run,
    before: Measurement,
    after: Mapping[str, Evaluation],
    start_seconds: float,
    weights_hash: str,
) -> dict[str, Any]:
    """Write the last evaluation and summary.json, show the final table, and write overlays.

    Args:
        run: The run.
        before: The values before training, "greedy" and "sampled"; empty if not measured.
        after: The evaluations after training, by the same names.
        start_seconds: Time until the rollout engines were up.
        weights_hash: SHA-256 of the final weights.

    Returns:
        The contents of summary.json.
    """
    cfg = run.cfg
    folder = run.record.evaluation_folder(cfg.train.steps)
    run.keeping.evaluations(cfg.train.steps, after)
    # A gain above the best blind guess shows that the policy reads the sentence.
    blind = blind_guesses(run)
    values_after = {how: values_of(evaluation) for how, evaluation in after.items()}
    summary = summarise(run, before, values_after, max(blind.values()), start_seconds)
    summary["weights_sha256"] = weights_hash
    run.record.write_summary(summary)

    figures = {}
    for name, value in summary.items():
        if isinstance(value, float):
            figures[name] = value
    run.tracker.metrics(cfg.train.steps, figures)
    rows = table_rows(before, values_after, blind)
    run.progress.table("before and after, held-out test split", rows)
    # Last, since a codec may fail and the figures must not depend on it.
    overlays = write_overlays(folder, best_and_worst(after["greedy"].results, OVERLAYS))
    run.tracker.artifact(folder / "overlays", f"evaluation/step_{cfg.train.steps}/overlays")
    run.tracker.artifact(run.record.path / "summary.json")
    say_what_next(run, overlays[0])
    return summary


def say_what_next(run: Run, overlay: Path) -> None:
    """Show what a person does next, in three commands."""
    cfg = run.cfg
    say = run.progress.note
    say(f"overlay video: {overlay}")
    say(f"look at its episodes: python -m ray_jobs.replay {run.record.path}")
    config = f"{run.record.path}/config.yaml policy.path={run.record.path}"
    say(f'segment a clip: python -m ray_jobs.segment CLIP.mp4 "the red square" {config}')
    if cfg.tracking.mlflow_uri:
        say(f"compare runs: mlflow ui --backend-store-uri {cfg.tracking.mlflow_uri}")


def blind_guesses(run: Run) -> dict[str, float]:
    """Return the J&F of each blind guess on the measured samples of the test split."""
    data = run.cfg.data
    objects = video_objects(data.format, data.root, data.test_split)
    return blind_jf(run.measured_samples(data.test_split), objects)


def summarise(
    run: Run,
    before: Measurement,
    after: Measurement,
    blind: float,
    start_seconds: float,
) -> dict[str, Any]:
    """Return the figures of summary.json. Those of before training are left out if not measured."""
    cfg = run.cfg
    steps = run.record.steps()
    seconds = {"start": start_seconds} | stage_seconds(steps)
    return _means(before, after) | {
        "system": cfg.system.name,
        "steps": cfg.train.steps,
        "seed": cfg.seed,
        "reward_first": steps[0]["reward"],
        "reward_last": steps[-1]["reward"],
        "blind_jf": blind,
        "paired": paired_gains(before, after),
        "logprob_gap_mean": float(np.mean(_column(steps, "logprob_gap_mean"))),
        "logprob_gap_max": max(_column(steps, "logprob_gap_max")),
        "groups": len(steps) * cfg.rollout.prompts_per_step,
        "failed_episodes": int(sum(_column(steps, "failed_episodes"))),
        # Those since the last step are in no line.
        "deaths": total_deaths([*steps, run.placement.watch.deaths.metrics()]),
        "seconds": seconds,
        "tokens_per_second": tokens_per_second(steps),
    }


def tokens_per_second(steps: Sequence[Mapping[str, Any]]) -> float:
    """Return the tokens that the engines decoded a second, while they played.

    Steps with groups from before a death are left out: their playing was not measured.
    """
    measured = [line for line in steps if "balance/play_s" in line]
    tokens = sum(_column(measured, "completion_tokens"))
    return tokens / max(sum(_column(measured, "balance/play_s")), 1e-9)


def total_deaths(steps: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the lost processes of each kind, summed over lines of metrics."""
    deaths: Counter[str] = Counter()
    for line in steps:
        for name, count in line.items():
            kind = name.removeprefix("deaths/")
            if kind != name:
                deaths[kind] += int(count)
    return dict(deaths)


def stage_seconds(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of each stage, summed over the lines of metrics.jsonl."""
    # Every system has the key "mask", also if no step had that stage.
    seconds = {"mask": 0.0}
    for line in steps:
        for stage, spent in line["seconds"].items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    return seconds


def paired_gains(before: Measurement, after: Measurement) -> dict[str, dict[str, float]]:
    """Return mean and standard error of each gain, paired by expression.

    Pairing takes the difficulty of each expression out of the standard error.
    """
    gains = {}
    for how, values in before.items():
        for figure in after[how]:
            mean, error = paired_gain(values[figure], after[how][figure])
            gains[f"{how}_{figure}"] = {"mean": mean, "standard_error": error}
    return gains


def table_rows(
    before: Measurement,
    after: Measurement,
    blind: Mapping[str, float],
) -> list[list[str]]:
    """Return the rows of the final table, its head first."""
    rows = [["", "before", "after", "gain ± paired s.e."]]
    for how, figure in TABLE:
        values = after[how][figure]
        first = "-"
        gain = "-"
        if before:
            first = f"{_mean(before[how][figure]):.3f}"
            mean, error = paired_gain(before[how][figure], values)
            gain = f"{mean:+.3f} ± {error:.3f}"
        name = "J&F" if figure == "jf" else figure
        rows.append([f"{how} {name}", first, f"{_mean(values):.3f}", gain])
    for guess, jf in blind.items():
        rows.append([f"blind J&F: {guess}", f"{jf:.3f}", "", ""])
    return rows


def _means(before: Measurement, after: Measurement) -> dict[str, Any]:
    """Return keys such as "jf_before", or "sampled_reward_after" for sampled episodes."""
    means: dict[str, Any] = {}
    for how, prefix in (("greedy", ""), ("sampled", "sampled_")):
        for figure in FIGURES:
            for when, values in (("before", before), ("after", after)):
                if values:
                    means[f"{prefix}{figure}_{when}"] = _mean(values[how][figure])
    return means


def _column(lines: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines]


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))
