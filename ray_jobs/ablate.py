"""Run an ablation, its variants times seeds, and write a table of the outcomes.

    python -m ray_jobs.ablate                                     # lists the ablations
    python -m ray_jobs.ablate temporal_reward
    python -m ray_jobs.ablate length_penalty seeds=0,1,2 preset=videoseg_r1_7b data.root=/data/mevis

Each run is a `ray_jobs.train`, or a `ray_jobs.evaluate` if the variants differ in how a trained
policy is used. Further `key=value`s go to every run. With its tiny preset an ablation has short
settings of its own (`ray_jobs.driver.ablations`); any other preset=... has none.

All runs are below one parent in one MLflow experiment, `ablate_<name>`, and in one folder,
<runs>/ablate_<name>/; table.md there is rewritten after each. Started again, the job continues:
finished runs are not repeated, and killed ones resume. A run with other settings in the same place
is an error; choose another runs=... then.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import load as load_config
from configs.schema import RUN, Config
from core.files import write_atomic
from core.settings import identity, unknown_name
from ray_jobs.driver.ablations import ABLATIONS, Ablation, Outcome, markdown
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.run import checked_config, refuse_other_run
from ray_jobs.driver.tracking import ended
from ray_jobs.record.dead_runs import FOLDER
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.owner import owned
from ray_jobs.record.run_folder import RunFolder

SEEDS = (0, 1, 2)
# Measures of training episodes are averaged over this many steps, at the end of a run.
LAST_STEPS = 10
# Settings that the ablation itself gives to each run.
RESERVED = ("name", "seed", "tracking.experiment", "tracking.parent")

# From the name and the arguments of a job to its exit code.
Start = Callable[[str, Sequence[str]], int]


def main(argv: Sequence[str]) -> None:
    if not argv or "-h" in argv or "--help" in argv:
        print(listing())
        return
    name = argv[0]
    if name not in ABLATIONS:
        raise ValueError(unknown_name(f"ablation {name!r}", name, ABLATIONS))

    ablation = ABLATIONS[name]
    seeds = list(SEEDS)
    extra = []
    for argument in argv[1:]:
        key, _, value = argument.partition("=")
        if key == "seeds":
            seeds = parse_seeds(value)
        elif key == "preset":
            ablation = replace(ablation, preset=value, settings=())
        elif key in RESERVED:
            raise ValueError(
                f"{argument}: the ablation sets it for each run; seeds are given as seeds=0,1,2"
            )
        else:
            extra.append(argument)
    table = ablate(name, ablation, seeds, extra, run_in_process)
    print(f"\n{table.read_text()}\n{table}")


def ablate(
    name: str,
    ablation: Ablation,
    seeds: Sequence[int],
    extra: Sequence[str],
    start: Start,
) -> Path:
    """Run the missing variants, and return the table's file.

    Args:
        name: The name of the ablation.
        ablation: The ablation.
        seeds: The seeds of each variant.
        extra: Settings of every run.
        start: Starts a job and waits for it.

    Raises:
        ValueError: An impossible setting, or a run with other settings in the same place; before
            the first run starts.
        RuntimeError: A run ended badly; start again to continue.
    """
    runs_folder = load_config([ablation.preset, *ablation.settings, *extra]).runs
    root = Path(runs_folder) / f"ablate_{name}"
    runs = plan(name, ablation, seeds, [*extra, f"runs={root}"])
    # All of them, before the first one starts: a mistake in the last would cost hours.
    configs = {key: checked(arguments) for key, arguments in runs.items()}

    table = root / "table.md"
    outcomes: dict[str, dict[int, Outcome]] = {}
    with tracked_above(name, root, configs.values()) as tracker:
        parent = f"tracking.parent={tracker.outbox_name}"
        for number, (key, arguments) in enumerate(runs.items(), 1):
            variant, seed = key
            print(f"[{number}/{len(runs)}] {variant}, seed {seed}:", end=" ", flush=True)
            found = found_or_run(ablation, configs[key], [*arguments, parent], start)
            outcomes.setdefault(variant, {})[seed] = found
            write_atomic(table, markdown(name, ablation, outcomes))
            track_variant(tracker, variant, outcomes[variant])
            tracker.artifact(table)
    return table


def found_or_run(
    ablation: Ablation, cfg: Config, arguments: Sequence[str], start: Start
) -> Outcome:
    """Return the measures of a variant with one seed, which runs if it has not finished before.

    Raises:
        RuntimeError: The run ended badly.
    """
    found = outcome(ablation, cfg)
    print("finished before" if found else Path(cfg.runs) / cfg.name, flush=True)
    return found or run_variant(ablation, cfg, arguments, start)


@contextmanager
def tracked_above(name: str, root: Path, configs: Iterable[Config]) -> Iterator[MlflowWriter]:
    """Open the MLflow run that is the parent of all runs of an ablation.

    Raises:
        ValueError: The ablation runs already.
    """
    root.mkdir(parents=True, exist_ok=True)
    first = next(iter(configs))
    tags = {"job": "ablate", "system": first.system.name, FOLDER: str(root.absolute())}
    with owned(root):
        tracker = MlflowWriter(
            first.tracking.mlflow_uri, first.tracking.experiment, root.name, root, tags=tags
        )
        tracker.tags({"ablation": name, "preset": first.tracking.preset})
        with ended(tracker):
            yield tracker


def track_variant(tracker: MlflowWriter, variant: str, by_seed: Mapping[int, Outcome]) -> None:
    """Hand over the means of a variant over the seeds so far."""
    columns: dict[str, list[float]] = {}
    for found in by_seed.values():
        for measure, value in found.items():
            columns.setdefault(f"{measure}/{variant}", []).append(value)
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    tracker.metrics(len(by_seed), means)


def run_variant(ablation: Ablation, cfg: Config, arguments: Sequence[str], start: Start) -> Outcome:
    """Run one variant with one seed, and return its measures.

    Raises:
        RuntimeError: The run ended badly.
    """
    code = start(ablation.job, arguments)
    found = outcome(ablation, cfg)
    if code != 0 or found is None:
        folder = Path(cfg.runs) / cfg.name
        raise RuntimeError(
            f"{folder}: ended with exit code {code}; see above, then start again to go on"
        )
    return found


def plan(
    name: str, ablation: Ablation, seeds: Sequence[int], extra: Sequence[str]
) -> dict[tuple[str, int], list[str]]:
    """Return the arguments of the job for each variant and seed.

    One seed comes after the other, to fill the table evenly.
    """
    runs = {}
    for seed in seeds:
        for variant in ablation.variants:
            folder = "".join(char if char.isalnum() else "_" for char in variant.name)
            arguments = [ablation.preset, *ablation.settings, *extra, *variant.settings]
            arguments += [f"name={folder}_seed{seed}", f"seed={seed}"]
            arguments.append(f"tracking.experiment=ablate_{name}")
            runs[variant.name, seed] = arguments
    return runs


def checked(arguments: Sequence[str]) -> Config:
    """Return the configuration of a run.

    Raises:
        ValueError: An impossible setting, or an older run with other settings in its place.
    """
    cfg = checked_config(arguments)
    refuse_other_run(Path(cfg.runs) / cfg.name, cfg)
    return cfg


def outcome(ablation: Ablation, cfg: Config) -> Outcome | None:
    """Return the measures of a finished run; None for any other."""
    folder = Path(cfg.runs) / cfg.name
    if ablation.job == "evaluate":
        return evaluated(folder, cfg)
    return trained(folder, cfg.train.steps)


def evaluated(folder: Path, cfg: Config) -> Outcome | None:
    """Return the measures of a complete evaluation with exactly these settings; else None.

    The job itself refuses to continue an evaluation with other settings.
    """
    run = RunFolder(folder / "evaluate")
    summary = run.summary()
    if summary is None or summary.get("missing"):
        return None
    old = load_config([str(run.path / "config.yaml")])
    if identity(old, RUN) != identity(cfg, RUN):
        return None
    if old.evaluate != cfg.evaluate:
        return None
    return {"J&F": summary["J&F"]}


def trained(folder: Path, steps: int) -> Outcome | None:
    """Return the measures of a run with all its steps; else None.

    `checked` has compared its settings.
    """
    run = RunFolder(folder)
    summary = run.summary()
    if summary is None or summary["steps"] != steps:
        return None
    found = {"J&F": summary["jf_after"], "sampled J&F": summary["sampled_jf_after"]}
    if "jf_before" in summary:
        found["gain"] = summary["jf_after"] - summary["jf_before"]
    last = [line for line in run.episodes() if line["step"] > steps - LAST_STEPS]
    return found | episode_measures(last)


def episode_measures(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means over some lines of episodes.jsonl; absent measures are left out."""
    values: dict[str, list[float]] = {
        "tIoU": [],
        "turns": [],
        "tokens": [],
        "reasoning tokens": [],
    }
    for line in episodes:
        # A failed episode has no parts, and not every system counts everything.
        parts = line["parts"] or {}
        if "tiou" in parts:
            values["tIoU"].append(100 * parts["tiou"])
        values["turns"].append(len(line["turns"]))
        values["tokens"].append(sum(turn["tokens"] for turn in line["turns"]))
        if "reasoning_tokens" in line["facts"]:
            values["reasoning tokens"].append(line["facts"]["reasoning_tokens"])

    means = {}
    for name, numbers in values.items():
        if numbers:
            means[name] = float(np.mean(numbers))
    return means


def run_in_process(job: str, arguments: Sequence[str]) -> int:
    """Run a job in a process of its own, with a fresh Ray, fresh engines and seeds."""
    command = [sys.executable, "-m", f"ray_jobs.{job}", *arguments]
    return subprocess.run(command, check=False).returncode


def listing(ablations: Mapping[str, Ablation] = ABLATIONS) -> str:
    """Return the usage and one line for each ablation."""
    lines = ["usage: python -m ray_jobs.ablate NAME [seeds=0,1,2] [preset=...] [key=value ...]", ""]
    for name, ablation in ablations.items():
        variants = " | ".join(variant.name for variant in ablation.variants)
        lines.append(f"  {name:<16} {ablation.preset:<18} {variants}")
    return "\n".join(lines)


def parse_seeds(text: str) -> list[int]:
    """Return distinct seeds from a text such as "0,1,2".

    Raises:
        ValueError: A part is not a whole number.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"seeds={text}: expected whole numbers with commas between, such as seeds=0,1,2"
        ) from None
    return list(dict.fromkeys(seeds))


if __name__ == "__main__":
    run_job(main)
