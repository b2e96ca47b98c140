"""Measure one policy on one benchmark or on several, and continue after a kill.

    python -m ray_jobs.evaluate revseg_tiny policy.path=FOLDER [name=NAME evaluate.samples=N]

measures a policy (a model folder, a checkpoints/step_N or a run folder) on `data.test_split`,
greedily, by the protocol of the benchmark. `ray_jobs.submission` makes the zip for a server.

    runs/<name>/evaluate/  evaluation.json  predictions.jsonl      see ray_jobs.record.predictions
                           summary.json  per_expression.csv  overlays/

The finished expressions of a video go to disk while others still play. Every figure is computed
from the lines on disk, so a run in two parts ends with the table of an uninterrupted run.
Expressions without public truth (`hidden` in their notes) are predicted and not measured.

All benchmarks with one start of the engines, in one table beside published figures:

    python -m ray_jobs.evaluate PRESET policy.path=FOLDER 'evaluate.sets=[
        {format: mevis, root: datasets/MeViS, split: valid_u},
        {format: revos, root: datasets/ReVOS, split: valid},
        {format: ref_youtube_vos, root: datasets/Ref-YouTube-VOS, split: valid}]'

    runs/<name>/evaluate/  table.md  table.csv  table.tex  summary.json
                           <set>/    the files of an evaluation of this set alone, or the zip for
                                     its server if its truth is not public

A started evaluation goes on at its set and expression; a finished set is not played again. If the
system asks auxiliary questions, those without a stored hint go to `evaluate.sampler` first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.load import load as load_config
from configs.load import validate
from configs.schema import Config
from core.evaluation.protocols import BINARY, MERGED, Scored, missing, protocol_of
from core.files import write_json
from core.types import End, Reward, Sample
from ray_jobs.driver.benchmark import (
    Benchmark,
    SetOnDisk,
    configured,
    open_benchmark,
    open_set,
    read_sets,
    refuse_other_form,
)
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.evaluation import measured
from ray_jobs.driver.frozen_sampler import ask_sampler
from ray_jobs.driver.masking import make_masking
from ray_jobs.driver.measuring import hidden
from ray_jobs.driver.overlays import OVERLAYS, write_overlays
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.preflight import check_prompts
from ray_jobs.driver.results import Result, best_and_worst
from ray_jobs.driver.run import Run
from ray_jobs.driver.tracking import describe
from ray_jobs.record import benchmark_table
from ray_jobs.record.benchmark_table import BenchmarkTable, MeasuredSet
from ray_jobs.record.predictions import FILE, Predictions, episode_of, line_of
from ray_jobs.record.published import benchmark_of
from ray_jobs.record.tables import davis_four_annotators, summary_of, write_tables
from ray_jobs.submission import LAYOUTS, submission

# Figures at the top of the table, in this order.
USUAL = ("J", "F", "J&F", "gIoU", "cIoU", "reward")
ARTIFACTS = ("config.yaml", "evaluation.json", "summary.json", "per_expression.csv", FILE)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Evaluate as configured; return the contents of summary.json."""
    if "-h" in argv or "--help" in argv:
        # Loading the configuration prints its keys below this, and exits.
        print(__doc__)
    cfg = configured(load_config(argv))
    validate(cfg)
    # Every set is read before anything starts.
    sets = read_sets(cfg)
    splits = [] if sets else [cfg.data.test_split]
    fresh = cfg.evaluate.resume == "never"
    with (
        Run.open(cfg, splits=splits, job="evaluate", folder="evaluate", fresh=fresh) as run,
        Pools(run, reward_splits=splits) as pools,
    ):
        refuse_other_form(run.record.path, sets)
        if sets:
            return evaluate_sets(run, pools, sets)
        return evaluate(run, pools)


def evaluate(run: Run, pools: Pools) -> dict[str, Any]:
    """Evaluate `data.test_split`: write all files, show the table; return the summary."""
    benchmark = open_benchmark(run)
    ask_sampler(run, [benchmark])
    summary, overlays = finish(benchmark, pools)
    track(benchmark, summary)
    show(run, summary, overlays)
    return summary


def evaluate_sets(run: Run, pools: Pools, sets: Sequence[SetOnDisk]) -> dict[str, Any]:
    """Evaluate one set after the other; write and show their table; return the whole summary."""
    # All are opened first: predictions of another policy are refused before an engine starts.
    benchmarks = [open_set(run, each) for each in sets]
    counted = check_prompts(run.cfg, run.system, [each.samples for each in benchmarks])
    run.progress.note(str(counted))
    ask_sampler(run, benchmarks)

    summaries = {}
    measured_sets = []
    zips = {}
    for benchmark in benchmarks:
        if benchmark.waiting:
            pools.score_against(benchmark.run.cfg, [benchmark.split])
        summary, _ = finish(benchmark, pools)
        track(benchmark, summary)
        summaries[benchmark.name] = summary
        measured_sets.append(measured_set(benchmark, summary))
        zip_file = zip_for_server(benchmark)
        if zip_file is not None:
            zips[benchmark.name] = str(zip_file)

    whole = {"policy": run.cfg.policy.path, "sets": summaries, "submissions": zips}
    table = write_whole(run, measured_sets, whole)
    show_sets(run, table, zips)
    return whole


def write_whole(
    run: Run, measured_sets: Sequence[MeasuredSet], whole: dict[str, Any]
) -> BenchmarkTable:
    """Write the table and the summary of all sets, and send them to the tracker."""
    folder = run.record.path
    title = f"{run.cfg.system.name}, {run.cfg.policy.path}, greedy"
    table = benchmark_table.build(run.cfg.name, title, measured_sets)
    benchmark_table.write(folder, table)
    write_json(folder / "summary.json", whole)
    for name in ("config.yaml", "summary.json", *benchmark_table.FILES):
        run.tracker.artifact(folder / name)
    return table


def finish(benchmark: Benchmark, pools: Pools) -> tuple[dict[str, Any], list[Path]]:
    """Play the missing expressions and write all files; return summary and overlay videos."""
    run = benchmark.run
    samples = benchmark.samples
    predictions = benchmark.predictions
    waiting = benchmark.waiting
    finished = len(samples) - len(waiting)
    if finished:
        where = f"{benchmark.name}: " if benchmark.name else ""
        run.progress.note(
            f"{where}{finished} of {len(samples)} expressions were finished before and are not "
            "played again"
        )
    if waiting:
        predict(benchmark, pools)

    with run.progress.phase(benchmark.phase("evaluate: tables")):
        summary = summarise(run.cfg, samples, predictions)
        write_tables(benchmark.folder, samples, predictions, summary)
    with run.progress.phase(benchmark.phase("evaluate: overlays")):
        overlays = render(benchmark.folder, samples, predictions)
    return summary, overlays


def predict(benchmark: Benchmark, pools: Pools) -> None:
    """Play and measure the waiting samples, and append finished groups to the predictions.

    Raises:
        ValueError, RuntimeError: Too many episodes failed, of all those of the benchmark; the
            finished ones stay on disk.
    """
    run = benchmark.run
    pieces = measured(
        run,
        pools,
        make_masking(run.cfg, pools),
        benchmark.waiting,
        benchmark.split,
        benchmark.phase("evaluate"),
        chunk=run.cfg.evaluate.chunk,
        total=len(benchmark.samples),
        then="tables and overlays",
    )
    for results in pieces:
        lines = []
        for result in results:
            # A failed episode is not the policy's fault: it is not scored, and played again.
            failed = result.episode.end is End.FAILED
            scores = {} if failed else result.scores
            line = line_of(result.sample, result.episode, result.masks_F, result.reward, scores)
            lines.append(line)
        if lines:
            benchmark.predictions.add(lines)


def measured_set(benchmark: Benchmark, summary: dict[str, Any]) -> MeasuredSet:
    """Return the columns of one set for the table of all."""
    data = benchmark.run.cfg.data
    figures: dict[str, float] | None = None
    if not benchmark.without_truth:
        figures = figures_of(summary)
        if "no_target" in summary:
            figures["N-acc"] = summary["no_target"]["N-acc"]
    return MeasuredSet(
        benchmark.name,
        benchmark_of(data.format, data.root),
        data.test_split,
        summary["protocol"],
        summary["expressions"],
        figures,
    )


def zip_for_server(benchmark: Benchmark) -> Path | None:
    """Return the zip of a set without public truth; None if it has truth or no zip can be made."""
    if not benchmark.without_truth:
        return None
    note = benchmark.run.progress.note
    layout = benchmark.run.cfg.data.format
    if layout not in LAYOUTS:
        note(f"{benchmark.name}: no layout of a server is known for data.format={layout}")
        return None
    predictions = benchmark.predictions
    if len(predictions.finished) < len(benchmark.run.split(benchmark.split)):
        note(f"{benchmark.name}: no zip, since a server takes all expressions (evaluate.samples=0)")
        return None

    target = benchmark.folder / f"{layout}.zip"
    lines = benchmark.folder / FILE
    if target.is_file() and target.stat().st_mtime > lines.stat().st_mtime:
        return target
    with benchmark.run.progress.phase(benchmark.phase("evaluate: zip")):
        return submission(benchmark.folder, layout, target)


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


def track(benchmark: Benchmark, summary: dict[str, Any]) -> None:
    """Send figures and files to the tracker; those of a set below its name."""
    tracker = benchmark.run.tracker
    folder = benchmark.folder
    name = benchmark.name
    figures = figures_of(summary)
    if name:
        figures = {f"{name}/{figure}": value for figure, value in figures.items()}
    tracker.metrics(0, figures)
    split = benchmark.split
    tracker.data(describe(benchmark.run.cfg, split, "evaluation", benchmark.samples))
    there = f"{name}/per_expression.json" if name else "per_expression.json"
    tracker.table(folder / "per_expression.csv", there)
    for file in ARTIFACTS:
        tracker.artifact(folder / file, name)
    if (folder / "overlays").is_dir():
        tracker.artifact(folder / "overlays", f"{name}/overlays" if name else "overlays")


def show_sets(run: Run, table: BenchmarkTable, zips: dict[str, str]) -> None:
    """Show the table of all sets, with the published figures of the system, and the files."""
    progress = run.progress
    shown = benchmark_table.of_system(table, run.cfg.system.name)
    progress.table(shown.title, benchmark_table.screen_rows(shown))
    for note in shown.notes:
        progress.note(note)
    for name, file in zips.items():
        progress.note(f"{name}: send {file} to the benchmark's server")
    progress.note(
        f"{len(table.methods)} published methods beside it: {run.record.path}/table.md, table.csv, "
        "table.tex"
    )


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


def _result(sample: Sample, line: dict[str, Any]) -> Result:
    """Return the result behind a line of predictions."""
    reward = None
    if line["reward"] is not None:
        reward = Reward(line["reward"], line["parts"])
    masks_F = tuple(line["masks"])
    return Result(sample, episode_of(line), masks_F, reward, line["scores"])


if __name__ == "__main__":
    run_job(main)
