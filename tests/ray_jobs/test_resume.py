"""A killed learner and a killed driver: the run ends with the weights of an uninterrupted run."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import psutil
import pytest

from configs.load import REPOSITORY
from core.files import read_lines
from ray_jobs.record import checkpoint
from ray_jobs.record.contact import FILE
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.conftest import (
    GROUP,
    PROMPTS,
    STEPS,
    TIMEOUT_S,
    TOO_LONG,
    Finished,
    command,
    environment,
    run_job,
    start_job,
    told,
)

# Two small processes of Ray; they look for their dead head for a minute or two before they end.
RAY_AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _runs(process: psutil.Process) -> bool:
    """Return False also for a dead process without a wait, a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait for all to end; return the ones still running after the timeout."""
    deadline = time.monotonic() + timeout_s
    running = [process for process in processes if _runs(process)]
    while running and time.monotonic() < deadline:
        time.sleep(0.2)
        running = [process for process in running if _runs(process)]
    return running


def draws(run: RunFolder) -> list[tuple[int, str]]:
    """Return step and sample of each episode, in the order of the learner."""
    return [(line["step"], line["sample"]) for line in run.episodes()]


@contextmanager
def started(*settings: str) -> Iterator[subprocess.Popen[str]]:
    """A training job, killed by its pid in the end."""
    process = subprocess.Popen(
        command("train", *settings),
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a job writes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not ready() and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)


def logged(run: RunFolder, step: int) -> list[int]:
    """Return the indices of the groups in the log of a step, in the order of their arrival."""
    file = run.path / "groups" / f"step_{step}.jsonl"
    return [line["index"] for line in read_lines(file)]


def kill_a_rank(process: subprocess.Popen[str]) -> None:
    """Kill one of the learner's ranks with SIGKILL."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if name_of(child).startswith("ray::Learner"):
            child.kill()
            return
    raise AssertionError("no rank was found")


def points(database: str, name: str) -> list[int]:
    """Return the steps of the points of the reward in MLflow."""
    query = """
        select step from metrics join runs using (run_uuid)
        where key = 'reward' and runs.name = ? order by step
    """
    with closing(sqlite3.connect(database)) as opened:
        return [step for (step,) in opened.execute(query, (name,))]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(finished: Finished) -> None:
    settings = finished.small.mixed("killed")
    run = finished.small.run("killed")
    with started(*settings) as process:
        # Another number of engines changes nothing in the weights below.
        wait_until((run.path / FILE).exists, process)
        control = ("control", str(run.path), "workers=2", "status")
        wait_until(lambda: start_job(*control).returncode == 0, process)
        # Before the first checkpoint: the ranks start anew with the initial policy.
        wait_until(lambda: bool(logged(run, step=1)), process)
        kill_a_rank(process)
        wait_until((run.checkpoints / "step_1").exists, process)
        wait_until(lambda: bool(logged(run, step=2)), process)
        family = psutil.Process(process.pid).children(recursive=True)
        # SIGKILL to the driver alone: nobody gets to clean up.
        process.kill()
        process.wait()
    assert run.steps()[0]["deaths/learner"] == 1
    workers = [p for p in family if not name_of(p).startswith(RAY_AGENTS)]
    assert workers, "no worker process was found"
    still = left(workers, 60)
    assert not still, f"still running after the driver was killed: {still}"

    asked = start_job("control", str(run.path), "status")
    assert asked.returncode == 1
    assert asked.stderr.strip().endswith("the command that began it goes on")

    assert run.summary() is None
    assert checkpoint.latest(run.checkpoints) is not None
    done = run_job("train", *settings)
    assert done.returncode == 0, told(done)
    resumed = run.summary()
    whole = finished.run.summary()
    assert resumed is not None
    assert whole is not None
    assert "resumed from" in done.stdout
    assert [line["step"] for line in run.steps()] == list(range(1, STEPS + 1))
    assert len(run.episodes()) == STEPS * PROMPTS * GROUP
    # No group was played a second time.
    assert sorted(logged(run, step=2)) == list(range(PROMPTS))
    assert points(str(finished.small.home / "mlflow.db"), "killed") == list(range(1, STEPS + 1))
    # The same draws from all sets, and the sample that cannot fit is named again.
    assert draws(run) == draws(finished.run)
    aside = json.loads((run.path / "set_aside.json").read_text())
    assert list(aside) == [TOO_LONG]
    assert f"set aside: 1 of 24 training samples: {TOO_LONG}" in done.stdout
    figures = ("jf_before", "sampled_jf_before", "jf_after", "sampled_jf_after", "reward_last")
    for key in ("weights_sha256", *figures):
        assert resumed[key] == whole[key], key
    assert resumed["paired"] == whole["paired"]
    orphans = left(family, 60)
    for orphan in orphans:
        orphan.kill()
    assert not orphans, f"left behind by the killed driver: {orphans}"
