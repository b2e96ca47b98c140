"""Runs an ablation: its variants times seeds, one `ray_jobs.train` after the other, and a table of what came out.

An ablation of how a trained policy is used runs `ray_jobs.evaluate` instead.

    python -m ray_jobs.ablate                                     # lists the ablations
    python -m ray_jobs.ablate temporal_reward
    python -m ray_jobs.ablate length_penalty seeds=0,1,2 preset=videoseg_r1_7b data.root=/data/mevis train.steps=200

Further `key=value`s go to every run. With its tiny preset an ablation has settings of its own that keep it short
(`ray_jobs.driver.ablations`); with another preset=... it has none. All runs are in one MLflow experiment, `ablate_<name>`, and
in one folder, <runs>/ablate_<name>/; table.md there is written anew after each. Started again, the job goes on: what is
finished is not repeated, what was killed resumes. A run with other settings in the same place is an error; choose
another runs=... then.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.load import load as load_config
from configs.load import validate
from configs.schema import Config
from core.files import write_atomic
from ray_jobs.driver.ablations import ABLATIONS, Ablation, Outcome, markdown
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.identity import refuse_other_run, run_identity
from ray_jobs.record.run_folder import RunFolder
from systems.base import unknown

SEEDS = (0, 1, 2)
LAST_STEPS = 10  # over which measures of training episodes are averaged
Start = Callable[[str, Sequence[str]], int]  # name and arguments of a job -> exit code


def plan(
    name: str, ablation: Ablation, seeds: Sequence[int], extra: Sequence[str]
) -> dict[tuple[str, int], list[str]]:
    """Arguments of the job for each variant and seed; seeds outside, so that a table fills evenly."""
    runs = {}
    for seed in seeds:
        for variant in ablation.variants:
            folder = "".join(c if c.isalnum() else "_" for c in variant.name)
            own = [
                f"name={folder}_seed{seed}",
                f"seed={seed}",
                f"tracking.experiment=ablate_{name}",
            ]
            runs[variant.name, seed] = [
                ablation.preset,
                *ablation.settings,
                *extra,
                *variant.settings,
                *own,
            ]
    return runs


def checked(arguments: Sequence[str]) -> Config:
    """The configuration of a run. ValueError for what cannot work, or an older run with other settings in its place."""
    cfg = load_config(arguments)
    validate(cfg)
    refuse_other_run(Path(cfg.runs) / cfg.name, cfg)
    return cfg


def outcome(ablation: Ablation, cfg: Config) -> Outcome | None:
    """What a finished run measured; None for one that is not finished."""
    folder = Path(cfg.runs) / cfg.name
    return (
        evaluated(folder, cfg) if ablation.job == "evaluate" else trained(folder, cfg.train.steps)
    )


def evaluated(folder: Path, cfg: Config) -> Outcome | None:
    """Of an evaluation with these settings that misses no prediction. One with others is the job's to refuse."""
    run = RunFolder(folder / "evaluate")
    summary = run.summary()
    if summary is None or summary.get("missing"):
        return None
    there = load_config([str(run.path / "config.yaml")])
    same = run_identity(there) == run_identity(cfg) and there.evaluate == cfg.evaluate
    return {"J&F": summary["J&F"]} if same else None


def trained(folder: Path, steps: int) -> Outcome | None:
    """Of a run that made all its steps; `checked` has seen to its settings."""
    run = RunFolder(folder)
    summary = run.summary()
    if summary is None or summary["steps"] != steps:
        return None
    found = {"J&F": summary["jf_after"], "sampled J&F": summary["sampled_jf_after"]}
    if "jf_before" in summary:
        found["gain"] = summary["jf_after"] - summary["jf_before"]
    last = [line for line in run.episodes() if line["step"] > steps - LAST_STEPS]
    placed = [100 * line["parts"]["tiou"] for line in last if "tiou" in (line["parts"] or {})]
    if placed:
        found["tIoU"] = float(np.mean(placed))
    if last:
        found["turns"] = float(np.mean([len(line["turns"]) for line in last]))
        found["tokens"] = float(
            np.mean([sum(turn["tokens"] for turn in line["turns"]) for line in last])
        )
    counted = [
        line["facts"]["reasoning_tokens"] for line in last if "reasoning_tokens" in line["facts"]
    ]
    if counted:
        found["reasoning tokens"] = float(np.mean(counted))
    return found


def ablate(
    name: str, ablation: Ablation, seeds: Sequence[int], extra: Sequence[str], start: Start
) -> Path:
    """Runs what is missing. Returns the table's file. RuntimeError if a run ends badly: start again to go on."""
    root = Path(_runs(ablation, extra)) / f"ablate_{name}"
    runs = plan(name, ablation, seeds, [*extra, f"runs={root}"])
    configs = {
        key: checked(arguments) for key, arguments in runs.items()
    }  # all of them, before the first one starts
    outcomes: dict[str, dict[int, Outcome]] = {}
    table = root / "table.md"
    root.mkdir(parents=True, exist_ok=True)
    for number, ((variant, seed), arguments) in enumerate(runs.items(), 1):
        cfg = configs[variant, seed]
        folder = Path(cfg.runs) / cfg.name
        found = outcome(ablation, cfg)
        print(
            f"[{number}/{len(runs)}] {variant}, seed {seed}: {'finished before' if found else folder}",
            flush=True,
        )
        if found is None:
            code = start(ablation.job, arguments)
            found = outcome(ablation, cfg)
            if code != 0 or found is None:
                raise RuntimeError(
                    f"{folder}: ended with exit code {code}; see above, then start again to go on"
                )
        outcomes.setdefault(variant, {})[seed] = found
        write_atomic(table, markdown(name, ablation, outcomes))
    return table


def run_in_process(job: str, arguments: Sequence[str]) -> int:
    """A run in a process of its own: Ray, engines and seeds start afresh."""
    return subprocess.run(
        [sys.executable, "-m", f"ray_jobs.{job}", *arguments], check=False
    ).returncode


def listing(ablations: Mapping[str, Ablation] = ABLATIONS) -> str:
    rows = [
        f"  {name:<16} {a.preset:<18} {' | '.join(v.name for v in a.variants)}"
        for name, a in ablations.items()
    ]
    return "\n".join(
        [
            "usage: python -m ray_jobs.ablate NAME [seeds=0,1,2] [preset=...] [key=value ...]",
            "",
            *rows,
        ]
    )


def main(argv: Sequence[str]) -> None:
    if not argv or {"-h", "--help"} & set(argv):
        print(listing())
        return
    name = argv[0]
    rest = argv[1:]
    if name not in ABLATIONS:
        raise ValueError(unknown(f"ablation {name!r}", name, ABLATIONS))
    ablation = ABLATIONS[name]
    seeds = list(SEEDS)
    extra = []
    for argument in rest:
        key, _, value = argument.partition("=")
        if key == "seeds":
            seeds = _seeds(value)
        elif key == "preset":
            ablation = replace(ablation, preset=value, settings=())
        elif key in ("name", "seed", "tracking.experiment"):
            raise ValueError(
                f"{argument}: the ablation sets it for each run; seeds are given as seeds=0,1,2"
            )
        else:
            extra.append(argument)
    table = ablate(name, ablation, seeds, extra, run_in_process)
    print(f"\n{table.read_text()}\n{table}")


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(
            f"seeds={text}: expected whole numbers with commas between, such as seeds=0,1,2"
        ) from None


def _runs(ablation: Ablation, extra: Sequence[str]) -> str:
    return load_config([ablation.preset, *ablation.settings, *extra]).runs


if __name__ == "__main__":
    run_job(main)
