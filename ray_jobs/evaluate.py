"""Measure one policy on one benchmark, and continue after a kill.

    python -m ray_jobs.evaluate revseg_tiny policy.path=FOLDER [name=NAME evaluate.samples=N]

measures a policy (a model folder, a checkpoints/step_N or a run folder) on `data.test_split`,
greedily, by the protocol of the benchmark. `ray_jobs.submission` makes the zip for a server.

    runs/<name>/evaluate/  evaluation.json  predictions.jsonl      see ray_jobs.record.predictions
                           summary.json  per_expression.csv  overlays/

Finished expressions go to disk in chunks while others still play. Every figure is computed from the
lines on disk, so a run in two parts ends with the table of an uninterrupted run. Expressions
without public truth (`hidden` in their notes) are predicted and not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.load import resolve
from configs.schema import PREDICTIONS, Config
from core.evaluation.protocols import BINARY, MERGED, Scored, missing, protocol_of
from core.segmenters import KINDS
from core.settings import identity
from core.types import End, Reward, Sample
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.evaluation import hidden, measured
from ray_jobs.driver.hints import HintStore, hints_of_policy
from ray_jobs.driver.masking import make_masking
from ray_jobs.driver.overlays import OVERLAYS, write_overlays
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Result, best_and_worst
from ray_jobs.driver.run import Run, checked_config
from ray_jobs.record.predictions import (
    FILE,
    Predictions,
    content_of,
    digest_of,
    episode_of,
    line_of,
)
from ray_jobs.record.tables import davis_four_annotators, summary_of, write_tables

# Figures at the top of the table, in this order.
USUAL = ("J", "F", "J&F", "gIoU", "cIoU", "reward")
ARTIFACTS = ("config.yaml", "evaluation.json", "summary.json", "per_expression.csv", FILE)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Evaluate as configured; return the contents of summary.json."""
    if "-h" in argv or "--help" in argv:
        # Loading the configuration prints its keys below this, and exits.
        print(__doc__)
    cfg = checked_config(argv)
    split = cfg.data.test_split
    fresh = cfg.evaluate.resume == "never"
    with (
        Run.open(cfg, splits=[split], folder="evaluate", fresh=fresh) as run,
        Pools(run, reward_splits=[split]) as pools,
    ):
        return evaluate(run, pools)


def evaluate(run: Run, pools: Pools) -> dict[str, Any]:
    """Play the missing expressions, write all files, show the table; return the summary."""
    cfg = run.cfg
    folder = run.record.path
    split = cfg.data.test_split
    HintStore(run, hints_of_policy(cfg, folder)).attach(split)
    # The identity covers the whole split, so a run of a part can be continued with the rest.
    all_samples = run.split(split)
    samples = all_samples[: cfg.evaluate.samples or len(all_samples)]

    predictions = Predictions.open(folder, evaluation_identity(cfg, all_samples))
    waiting = [sample for sample in samples if sample.uid not in predictions.finished]
    finished = len(samples) - len(waiting)
    if finished:
        run.progress.note(
            f"{finished} of {len(samples)} expressions were finished before and are not played "
            "again"
        )
    if waiting:
        predict(run, pools, waiting, predictions, total=len(samples))

    with run.progress.phase("evaluate: tables"):
        summary = summarise(cfg, samples, predictions)
        write_tables(folder, samples, predictions, summary)
    with run.progress.phase("evaluate: overlays"):
        overlays = render(folder, samples, predictions)
    track(run, summary)
    show(run, summary, overlays)
    return summary


def evaluation_identity(cfg: Config, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return all influences on the predictions. Predictions of two identities are never mixed."""
    found = identity(cfg, PREDICTIONS)
    found["contents of policy.path"] = content_of(resolve(cfg.policy.path))
    if cfg.mask.token:
        found["mask.token"] = cfg.mask.token
        found["mask.redraw"] = cfg.mask.redraw
    if KINDS[cfg.segmenter.kind].needs_weights:
        found["contents of segmenter.path"] = content_of(resolve(cfg.segmenter.path))
    found["expressions"] = len(samples)
    found["contents of the split"] = digest_of(_texts(samples))
    return found


def predict(
    run: Run, pools: Pools, samples: Sequence[Sample], predictions: Predictions, total: int
) -> None:
    """Play and measure samples, and append each finished chunk to the predictions.

    Args:
        run: The run.
        pools: Its actors.
        samples: The expressions without a prediction.
        predictions: The destination of the lines.
        total: Failures are counted against this number of expressions.

    Raises:
        ValueError, RuntimeError: Too many episodes failed; the finished ones stay on disk.
    """
    cfg = run.cfg
    masking = make_masking(cfg, pools)
    chunks = measured(
        run,
        pools,
        masking,
        samples,
        cfg.data.test_split,
        "evaluate",
        chunk=cfg.evaluate.chunk,
        total=total,
    )
    for results in chunks:
        lines = []
        for result in results:
            # A failed episode is not the policy's fault: it is not scored, and played again.
            failed = result.episode.end is End.FAILED
            scores = {} if failed else result.scores
            line = line_of(result.sample, result.episode, result.masks_F, result.reward, scores)
            lines.append(line)
        if lines:
            predictions.add(lines)


def summarise(
    cfg: Config,
    samples: Sequence[Sample],
    predictions: Predictions,
) -> dict[str, Any]:
    """Return the figures of the benchmark's protocol, from the lines on disk."""
    public = [sample for sample in samples if not hidden(sample)]
    rows = list(scored(public, predictions))
    protocol = protocol_of(cfg.evaluate.protocol, cfg.data.format)
    summary = summary_of(samples, rows, predictions, protocol)
    if public and protocol == MERGED:
        # Ref-DAVIS17 is published in two ways; the official one takes the plain names.
        for name in ("J", "F", "J&F"):
            summary[f"{BINARY}/{name}"] = summary.get(name, 0.0)
        summary |= davis_four_annotators(public, predictions)
    return summary


def scored(samples: Sequence[Sample], predictions: Predictions) -> Iterator[Scored]:
    """Yield the scores of each expression; failed and absent predictions are missing."""
    for sample in samples:
        line = predictions.get(sample.uid)
        if line is None or line["end"] == End.FAILED.value:
            yield missing(sample)
        else:
            has_target = bool(sample.targets)
            yield Scored(sample.uid, sample.kind, has_target, line["scores"])


def render(folder: Path, samples: Sequence[Sample], predictions: Predictions) -> list[Path]:
    """Write overlay videos of the best and the worst expressions, the best first.

    Without public truth all expressions score the same, and the first ones are rendered.
    """
    # Their names hold figures, which may have changed.
    for old in (folder / "overlays").glob("*.mp4"):
        old.unlink()

    # The masks of a whole benchmark may not fit in memory: only those of the chosen ones are kept.
    results = []
    for sample in samples:
        line = predictions.get(sample.uid)
        if line is not None:
            results.append(_result(sample, line | {"masks": ()}))
    chosen = best_and_worst(results, OVERLAYS)
    uids = {result.sample.uid for result in chosen}

    with_masks = []
    for sample in samples:
        line = predictions.get(sample.uid)
        if line is not None and sample.uid in uids:
            with_masks.append(_result(sample, line))
    with_masks.sort(key=lambda result: -result.jf)
    return write_overlays(folder, with_masks)


def track(run: Run, summary: dict[str, Any]) -> None:
    """Send figures and files to the tracker."""
    folder = run.record.path
    run.tracker.metrics(0, figures_of(summary))
    for name in ARTIFACTS:
        run.tracker.artifact(folder / name)
    if (folder / "overlays").is_dir():
        run.tracker.artifact(folder / "overlays", "overlays")


def show(run: Run, summary: dict[str, Any], overlays: Sequence[Path]) -> None:
    """Show the table, with the usual figures first, and the paths of the files."""
    progress = run.progress
    rows = table_rows(summary)
    title = f"{summary['expressions']} expressions, greedy, protocol {summary['protocol']}"
    if rows:
        progress.table(title, rows)
    else:
        progress.note(
            f"{title}: no truth to measure against; python -m ray_jobs.submission makes the zip"
        )
    lost = summary.get("missing", [])
    if lost:
        progress.note(
            f"{len(lost)} predictions are missing and count 0 (a new start plays them): {lost[:5]}"
        )
    files = f"per expression: {run.record.path}/per_expression.csv"
    if overlays:
        files += f"; overlay video: {overlays[0]}"
    progress.note(files)


def figures_of(summary: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a summary, without counts, names and tables."""
    figures = {}
    for name, value in summary.items():
        if isinstance(value, float):
            figures[name] = value
    return figures


def table_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return name and value of each figure, the usual ones first."""
    rows = []
    for name in USUAL:
        if name in summary:
            rows.append([name, f"{summary[name]:.3f}"])
    for name, value in figures_of(summary).items():
        if name not in USUAL:
            rows.append([name, f"{value:.3f}"])
    for name, value in summary.get("no_target", {}).items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        rows.append([f"no target: {name}", text])
    return rows


def _texts(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield the identity of each sample: its names, query, targets and hints."""
    for sample in samples:
        texts = [sample.uid, sample.query, *sample.video.frame_names]
        texts += [target.uid for target in sample.targets]
        if sample.hints is not None:
            texts += [str(hint) for hint in sample.hints.to_json().items()]
        yield "\n".join(texts)


def _result(sample: Sample, line: dict[str, Any]) -> Result:
    """Return the result behind a line of predictions."""
    reward = None
    if line["reward"] is not None:
        reward = Reward(line["reward"], line["parts"])
    masks_F = tuple(line["masks"])
    return Result(sample, episode_of(line), masks_F, reward, line["scores"])


if __name__ == "__main__":
    run_job(main)
