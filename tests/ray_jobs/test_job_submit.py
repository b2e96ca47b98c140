"""`ray job submit`: a head with token authentication, a job from an uploaded working directory.

The job plays its steps ahead (`rollout.max_staleness=1`), with weights one update old.

The head has a temporary folder of its own and is ended by its pid, because `ray stop` would end
every Ray on the machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.load import REPOSITORY
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.conftest import EXTRA, TIMEOUT_S, Small, environment, told

RAY = str(Path(sys.executable).with_name("ray"))
# A start that takes longer has failed.
START_S = 240
STARTS = 3
# The client's port may not be 0. This range is below the ports that the kernel hands out, and above
# those of Ray's workers.
CLIENT_PORTS = range(20000, 30000)


class Head:
    """A head on ports of Ray's own choice: a port found free before could be taken by then."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        # A short path, because Unix sockets have names of at most 107 bytes.
        self._temporary = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._log = log
        self._env = env
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            "--port=0",
            "--dashboard-port=0",
            "--dashboard-agent-listen-port=0",
            f"--ray-client-server-port={random.choice(CLIENT_PORTS)}",
            "--num-cpus=2",
            f"--temp-dir={self._temporary}",
            "--disable-usage-stats",
        ]
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=env, stdout=file, stderr=subprocess.STDOUT
            )

    def shell(self) -> dict[str, str] | None:
        """Wait for the head and its agent.

        Returns:
            the environment of a second shell for submitting to it, or None without one of them.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            found = re.search(r"RAY_API_SERVER_ADDRESS='(http://[^']+)'", self._log.read_text())
            agent = self._agent_port()
            if agent == -1:
                # An agent that cannot listen stays alive, but no job can ever be submitted.
                return None
            if found and agent is not None:
                return self._env | {"RAY_ADDRESS": found[1]}
            time.sleep(0.5)
        return None

    def _agent_port(self) -> int | None:
        """Return what the agent wrote down: its port, -1 if it has none, None before that."""
        for file in self._temporary.glob("session_latest/dashboard_agent_listen_port_*"):
            written = file.read_text()
            if written:
                return int(written)
        return None

    def logs(self) -> str:
        """Return the ends of the logs of the head and its processes."""
        folder = self._temporary / "session_latest" / "logs"
        files = [self._log]
        for name in ("dashboard.*", "dashboard_agent.*", "raylet.*", "ray_process_exit.log"):
            files += sorted(folder.glob(name))
        ends = []
        for file in files:
            ends.append(f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}")
        return "\n".join(ends)

    def end(self) -> None:
        family = []
        if self._process.poll() is None:
            family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        self._process.wait(timeout=60)
        for orphan in psutil.wait_procs(family, timeout=10)[1]:
            orphan.kill()
        shutil.rmtree(self._temporary, ignore_errors=True)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A running head with an agent. A start that comes to nothing is repeated."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    env = environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    failed = []
    for start in range(STARTS):
        head = Head(env, tmp_path / f"head_{start}.log")
        try:
            if head.shell() is not None:
                yield head
                return
            failed.append(head.logs())
        finally:
            head.end()
    pytest.fail(f"no head with an agent in {STARTS} starts:\n" + "\n".join(failed))


@pytest.mark.slow
def test_a_job_from_an_uploaded_working_directory(head: Head, small: Small) -> None:
    settings = [
        *small.settings("job"),
        "rollout.max_staleness=1",
        "train.steps=3",
        "train.eval_every=0",
        "train.eval_samples=2",
        "train.keep_checkpoints=1",
        "train.eval_before=false",
    ]
    # Relative paths of models, data and runs begin there, not in the copy.
    files = json.dumps({"env_vars": {"RAYVOS_FILES": str(small.home)}})
    submit = [RAY, "job", "submit", "--working-dir", ".", "--runtime-env-json", files, "--"]
    settings = [word for word in settings if not word.startswith("runs=")]
    train = [sys.executable, "-m", "ray_jobs.train", "revseg_tiny", *EXTRA, *settings]
    with dummy_policy():
        done = subprocess.run(
            submit + train,
            cwd=REPOSITORY,
            env=head.shell(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == 0, f"{told(done)}\n{head.logs()}"
    assert "succeeded" in (done.stdout + done.stderr).lower()
    summary = small.run("job").summary()
    assert summary is not None
    assert summary["steps"] == 3
    assert summary["failed_episodes"] == 0
    config = (small.run("job").path / "config.yaml").read_text()
    # A relative path belongs to the uploaded copy, and a copy has no .git.
    assert "path: tiny/weights/segmenter" in config or EXTRA
    assert "commit" not in (small.run("job").path / "environment.json").read_text()
    check_staleness(small.run("job"))
    check_what_is_kept(small.run("job"), summary)


@contextmanager
def dummy_policy() -> Iterator[None]:
    """Put 600 MB below `checkpoints/` of the checkout, more than Ray uploads; a hole, no blocks."""
    folder = REPOSITORY / "checkpoints" / f"dummy_{os.getpid()}"
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as sparse:
        sparse.truncate(600 << 20)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        with suppress(OSError):
            folder.parent.rmdir()


def check_staleness(run: RunFolder) -> None:
    """Steps are played ahead, with weights that are at most one update old."""
    ages = set()
    for line in run.episodes():
        for turn in line["turns"]:
            if line["step"] > 1:
                ages.add(line["step"] - 1 - turn["version"])
    assert ages <= {0, 1}
    assert 1 in ages, "nothing was played ahead"
    for line in run.steps():
        assert abs(line["importance_mean"] - 1) < 0.2
    # The weights of the engine are older than the learner's, so log-probs differ.
    assert max(line["logprob_gap_mean"] for line in run.steps()[1:]) > 1e-6


def check_what_is_kept(run: RunFolder, summary: dict[str, Any]) -> None:
    """One checkpoint as configured, and no figures of the policy before training."""
    assert [folder.name for folder in run.checkpoints.iterdir()] == ["step_3"]
    assert summary["paired"] == {}
    assert not [key for key in summary if key.endswith("before")]
    assert summary["jf_after"] >= 0
    assert not (run.path / "evaluation" / "step_0").exists()
