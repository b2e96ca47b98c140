"""A run that is killed goes on from its last checkpoint and ends where an uninterrupted one ends."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from configs.load import REPOSITORY
from ray_jobs import checkpoint
from tests.ray_jobs.conftest import GROUP, PROMPTS, STEPS, TIMEOUT_S, Finished, command, environment, run_job, told


@contextmanager
def started(*settings: str) -> Iterator[subprocess.Popen[str]]:
    """A training job; what is left of it in the end is killed by pid."""
    process = subprocess.Popen(
        command("train", *settings), cwd=REPOSITORY, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(finished: Finished) -> None:
    settings, run = finished.small.settings("killed"), finished.small.run("killed")
    with started(*settings) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not (run.checkpoints / "step_1").exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # SIGKILL to the driver alone: nobody gets to clean up
        process.wait()
    gone, alive = psutil.wait_procs(family, timeout=60)
    for orphan in alive:
        orphan.kill()
    assert gone and not alive, f"left behind by a killed driver: {alive}"

    assert run.summary() is None and checkpoint.latest(run.checkpoints) is not None
    done = run_job("train", *settings)
    assert done.returncode == 0, told(done)
    resumed, whole = run.summary(), finished.run.summary()
    assert resumed is not None and whole is not None and "resumed from" in done.stdout
    assert [line["step"] for line in run.steps()] == list(range(1, STEPS + 1))
    assert len(run.episodes()) == STEPS * PROMPTS * GROUP
    for key in ("weights_sha256", "jf_before", "sampled_jf_before", "jf_after", "sampled_jf_after", "reward_last"):
        assert resumed[key] == whole[key], key
    assert resumed["paired"] == whole["paired"]
