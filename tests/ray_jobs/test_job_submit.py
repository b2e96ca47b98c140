"""`ray job submit`: a head with token authentication, a job from an uploaded working directory.

The head has free ports and a temporary folder of its own, and is ended by its pid, because
`ray stop` would end every Ray on the machine.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from configs.load import REPOSITORY
from tests.ray_jobs.conftest import EXTRA, TIMEOUT_S, Small, environment, told

RAY = str(Path(sys.executable).with_name("ray"))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A running head; yields the environment of a second shell for submitting to it."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    env = environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    port, dashboard, agent, client = _free_ports(4)
    # A short path, because Unix sockets have names of at most 107 bytes.
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        "--num-cpus=2",
        f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}",
        f"--temp-dir={temporary}",
        "--disable-usage-stats",
    ]
    log = tmp_path / "head.log"
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    try:
        yield env | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        family = []
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(timeout=60)
        for orphan in psutil.wait_procs(family, timeout=10)[1]:
            orphan.kill()
        shutil.rmtree(temporary, ignore_errors=True)


def _submit(env: dict[str, str], *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """Submit and wait. The head refuses jobs while it starts, so try again until it is up."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--", *entrypoint]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        said = done.stdout + done.stderr
        starting = "Failed to connect to Ray" in said or "No available agent" in said
        if not starting or time.monotonic() > deadline:
            return done
        time.sleep(1)


@pytest.mark.slow
def test_a_job_from_an_uploaded_working_directory(head: dict[str, str], small: Small) -> None:
    settings = [
        *small.settings("job"),
        "train.steps=1",
        "train.eval_samples=2",
        "learner.world_size=1",
    ]
    done = _submit(head, sys.executable, "-m", "ray_jobs.train", "revseg_tiny", *EXTRA, *settings)
    assert done.returncode == 0, told(done)
    assert "succeeded" in (done.stdout + done.stderr).lower()
    summary = small.run("job").summary()
    assert summary is not None
    assert summary["steps"] == 1
    assert summary["failed_episodes"] == 0
    config = (small.run("job").path / "config.yaml").read_text()
    # A relative path belongs to the uploaded copy, and a copy has no .git.
    assert "path: tiny/weights/segmenter" in config or EXTRA
    assert "commit" not in (small.run("job").path / "environment.json").read_text()
