"""The demands on a run after all its faults."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Set

from mlflow import MlflowClient

from ray_jobs.record.run_folder import RunFolder
from tests.chaos.family import Family, shared_memory, words_of

# Two small processes of Ray look for their dead head for a minute or two before they end.
GRACE_S = 180.0
# MLflow gets the last records of a run within this time.
DELIVERY_S = 60.0


def differences(run: RunFolder, undisturbed: RunFolder, steps: int) -> list[str]:
    """Compare a run with an undisturbed one; return what is wrong, or nothing."""
    wrong: list[str] = []
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
    wrong: list[str] = []
    mine = Counter(_key(line) for line in run.episodes())
    theirs = Counter(_key(line) for line in undisturbed.episodes())
    for key, count in (mine - theirs).items():
        wrong.append(f"episodes.jsonl: {count} too many of {key}")
    for key, count in (theirs - mine).items():
        wrong.append(f"episodes.jsonl: {count} missing of {key}")
    return wrong[:10]


def _key(line: Mapping[str, object]) -> tuple[object, ...]:
    return line["step"], line["sample"], line["episode"], line["reward"]


def tracking_that_differs(uri: str, run: RunFolder, steps: int) -> list[str]:
    """MLflow has one point a step, and the status FINISHED; wait for the rest of its records."""
    states = json.loads((run.path / "mlflow.json").read_text())
    [state] = states.values()
    client = MlflowClient(uri)
    wrong: list[str] = []
    end = time.monotonic() + DELIVERY_S
    while True:
        points = client.get_metric_history(state["run_id"], "reward")
        status = client.get_run(state["run_id"]).info.status
        recorded = sorted(point.step for point in points)
        if recorded == list(range(1, steps + 1)) and status == "FINISHED":
            return []
        if time.monotonic() > end:
            break
        time.sleep(1)
    wrong.append(f"MLflow has the steps {recorded}, status {status}")
    return wrong


def left_behind(family: Family, before: Set[str]) -> list[str]:
    """Return processes and files in shared memory that outlive the run."""
    end = time.monotonic() + GRACE_S
    while True:
        alive = family.alive()
        files = shared_memory() - before
        if not alive and not files:
            return []
        if time.monotonic() > end:
            break
        time.sleep(1)
    wrong = [f"process {each.pid} still runs: {' '.join(words_of(each))[:80]}" for each in alive]
    return wrong + [f"/dev/shm/{name} is left" for name in sorted(files)]
