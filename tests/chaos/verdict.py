"""The demands on a run after all its faults."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient

from ray_jobs.record.run_folder import RunFolder
from tests.chaos import processes
from tests.chaos.plan import Inflicted
from tests.chaos.space import SHARED_MEMORY
from tests.chaos.trial import Trial

# Two small processes of Ray look for their dead head for a minute or two before they end.
GRACE_S = 180.0
# MLflow gets the last records of a run within this time.
DELIVERY_S = 60.0
# Differences of one kind that are told.
TOLD = 10


def differences(run: RunFolder, undisturbed: RunFolder, steps: int) -> list[str]:
    """Compare a run with an undisturbed one."""
    wrong = []
    summary = run.summary() or {}
    expected = undisturbed.summary() or {}
    for key in ("weights_sha256", "jf_after", "sampled_jf_after", "failed_episodes", "steps"):
        if summary.get(key) != expected.get(key):
            wrong.append(f"summary.json: {key} is {summary.get(key)}, not {expected.get(key)}")

    recorded = [line["step"] for line in run.steps()]
    if recorded != list(range(1, steps + 1)):
        wrong.append(f"metrics.jsonl has the steps {recorded}")
    return wrong + episodes_that_differ(run, undisturbed)


def episodes_that_differ(run: RunFolder, undisturbed: RunFolder) -> list[str]:
    """Every episode is learned from exactly once, with the same reward."""
    wrong = []
    mine = Counter(_key(line) for line in run.episodes())
    theirs = Counter(_key(line) for line in undisturbed.episodes())
    for key, count in (mine - theirs).items():
        wrong.append(f"episodes.jsonl: {count} too many of {key}")
    for key, count in (theirs - mine).items():
        wrong.append(f"episodes.jsonl: {count} missing of {key}")
    return wrong[:TOLD]


def _key(line: Mapping[str, object]) -> tuple[object, ...]:
    return line["step"], line["sample"], line["episode"], line["reward"]


def tracking_that_differs(trial: Trial, steps: int) -> list[str]:
    """MLflow has one point a step and the status FINISHED, once all of its records are there."""
    if trial.server is not None:
        trial.server.wait_until_up()
    states = json.loads((trial.run.path / "mlflow.json").read_text())
    [state] = states.values()
    client = MlflowClient(trial.tracking)
    deadline = time.monotonic() + DELIVERY_S
    while True:
        points = client.get_metric_history(state["run_id"], "reward")
        recorded = sorted(point.step for point in points)
        status = client.get_run(state["run_id"]).info.status
        if recorded == list(range(1, steps + 1)) and status == "FINISHED":
            return []
        if time.monotonic() > deadline:
            return [f"MLflow has the steps {recorded}, status {status}"]
        time.sleep(1)


def told_hangs(log: Path, inflicted: Sequence[Inflicted]) -> str:
    """Say how many stopped processes the run named; a later fault or its end may come first."""
    text = log.read_text(errors="replace")
    # A silent MLflow server is nobody's hang.
    stopped = [fault for fault in inflicted if fault.kind.startswith("stop ")]
    stopped = [fault for fault in stopped if fault.victim.isdigit()]
    named = [fault for fault in stopped if fault.victim in text]
    return f"{len(named)} of {len(stopped)} stopped processes are named in {log}"


def left_behind() -> list[str]:
    """Return processes and files in shared memory that outlive the run.

    The store of decoded frames keeps its lock files, without a byte, for the next run.
    """
    deadline = time.monotonic() + GRACE_S
    while True:
        alive = processes.alive()
        files = [file for file in sorted(SHARED_MEMORY.rglob("*")) if has_bytes(file)]
        if not alive and not files:
            return []
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    wrong = []
    for process in alive:
        words = " ".join(processes.words_of(process))
        wrong.append(f"process {process.pid} still runs: {words[:80]}")
    return wrong + [f"{file} is left" for file in files[:TOLD]]


def has_bytes(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size > 0
    except FileNotFoundError:
        return False
