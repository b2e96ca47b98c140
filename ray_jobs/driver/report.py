"""What a finished run says of itself: summary.json, the table before and after, overlay videos.

Knows no step and no actor; every figure is of the run at hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.load import video_objects
from ray_jobs.blind_baselines import blind_jf
from ray_jobs.driver.evaluation import Evaluation, paired_gain, write
from ray_jobs.driver.session import Session


def values(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Per-expression values that the paired table needs, JSON-able: they travel in the checkpoint's state."""
    return {what: evaluation.per_expression(what) for what in ("jf", "reward")}


def finish(
    session: Session, state: dict[str, Any], after: dict[str, Evaluation], weights_hash: str
) -> dict[str, Any]:
    """Writes evaluation folders, overlays and summary.json, and shows the final table."""
    cfg = session.cfg
    run = session.run
    folder = run.evaluation_folder(cfg.train.steps)
    for name, evaluation in after.items():
        write(folder / name, evaluation)
    overlays = session.overlays(folder, after["greedy"])
    split = cfg.data.test_split
    blind = blind_jf(
        session.test_samples(split), video_objects(cfg.data.format, cfg.data.root, split)
    )
    summary = summarise(
        session, state, {k: values(e) for k, e in after.items()}, max(blind.values()), weights_hash
    )
    run.write_summary(summary)
    session.mlflow.metrics(
        cfg.train.steps, {k: v for k, v in summary.items() if isinstance(v, float)}
    )
    session.progress.table(
        "before and after, held-out test split", table_rows(state["before"], after, blind)
    )
    session.progress.note(f"overlay video: {overlays[0]}")
    if cfg.tracking.mlflow_uri:
        session.progress.note(
            f"compare runs: mlflow ui --backend-store-uri {cfg.tracking.mlflow_uri}"
        )
    return summary


def summarise(
    session: Session, state: dict[str, Any], after: dict[str, Any], blind: float, weights_hash: str
) -> dict[str, Any]:
    """summary.json of the run; every figure is of this run. Without a measure before training, none of its keys."""
    cfg = session.cfg
    before = state["before"]
    steps = session.run.steps()
    seconds: dict[str, float] = {"start": state["start_seconds"], "mask": 0.0}
    for line in steps:
        for stage, spent in line["seconds"].items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    mean = {
        f"{prefix}{what}_{when}": float(np.mean(list(table[how][what].values())))
        for how, prefix in (("greedy", ""), ("sampled", "sampled_"))
        for what in ("jf", "reward")
        for when, table in (("before", before), ("after", after))
        if table
    }
    tokens = sum(line["completion_tokens"] for line in steps)
    return mean | {
        "system": cfg.system.name,
        "steps": cfg.train.steps,
        "seed": cfg.seed,
        "reward_first": steps[0]["reward"],
        "reward_last": steps[-1]["reward"],
        "blind_jf": blind,
        "paired": {
            f"{how}_{what}": gain(before[how][what], after[how][what])
            for how in before
            for what in after[how]
        },
        "logprob_gap_mean": float(np.mean([line["logprob_gap_mean"] for line in steps])),
        "logprob_gap_max": max(line["logprob_gap_max"] for line in steps),
        "groups": len(steps) * cfg.rollout.prompts_per_step,
        "failed_episodes": int(sum(line["failed_episodes"] for line in steps)),
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds.get("play", 0.0), 1e-9),
        "weights_sha256": weights_hash,
    }


def gain(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    mean, error = paired_gain(before, after)
    return {"mean": mean, "standard_error": error}


def table_rows(
    before: dict[str, Any], after: dict[str, Evaluation], blind: dict[str, float]
) -> list[list[str]]:
    rows = [["", "before", "after", "gain ± paired s.e."]]
    for how, what in (
        ("sampled", "reward"),
        ("sampled", "jf"),
        ("greedy", "reward"),
        ("greedy", "jf"),
    ):
        a = after[how].per_expression(what)
        first = "-"
        gained = "-"
        if before:
            b = before[how][what]
            first = f"{np.mean(list(b.values())):.3f}"
            (mean, error) = paired_gain(b, a)
            gained = f"{mean:+.3f} ± {error:.3f}"
        label = f"{how} {'J&F' if what == 'jf' else what}"
        rows.append([label, first, f"{np.mean(list(a.values())):.3f}", gained])
    return rows + [[f"blind J&F: {name}", f"{jf:.3f}", "", ""] for name, jf in blind.items()]
