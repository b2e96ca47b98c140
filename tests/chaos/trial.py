"""Training runs that are started as a user starts them, on a disk of their own."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from configs.load import REPOSITORY
from ray_jobs.driver.requests import PREEMPTED
from ray_jobs.record.contact import FILE, Contact
from ray_jobs.record.run_folder import RunFolder
from tests.chaos import processes, space

# Room of the disk.
DISK = "size=512m"
# Longest start of the tracking server.
SERVER_S = 300.0
# Share of the machine's memory for the runs and the balloon of the memory fault: above what is
# used without them, Ray's monitor kills workers.
OWN_MEMORY = 0.5


class Server:
    """An MLflow server of the trial's own.

    Attributes:
        folder: Place of its database and log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", database_in(self.folder)]
        # Otherwise it starts ten processes for jobs, which nobody gives it.
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "mlflow.log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, cwd=self.folder
            )

    def wait_until_up(self) -> None:
        """Wait for its first answer. Raises TimeoutError."""
        deadline = time.monotonic() + SERVER_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(f"{self.folder}/mlflow.log: the server is not up after {SERVER_S:g} s")

    def stop(self) -> None:
        """Kill it with all its processes."""
        if self.process is not None and self.process.poll() is None:
            processes.kill(processes.tree_of(psutil.Process(self.process.pid)))
            self.process.wait()


def database_in(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Trial:
    """A disk, a tracking server, and the runs on them.

    Attributes:
        server: None: the runs write into a database themselves.
        folder: Keeps logs and, in the end, the run folders.
        disk: File system of the runs, alone on it.
        rng: Draws victims.
        ended: Set while no run is waited for.
        name: Name of the newest run.
        starts: Number of its starts: after a preemption we are its scheduler.
        memory_threshold: Share of the machine's memory above which Ray kills a worker.
    """

    def __init__(
        self,
        folder: Path,
        preset: str,
        settings: Sequence[str],
        rng: random.Random,
        with_server: bool,
    ) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.preset = preset
        self.settings = list(settings)
        self.rng = rng
        self.server = Server(folder) if with_server else None
        self.ended = threading.Event()
        self.name = ""
        self.starts = 0
        used = psutil.virtual_memory().percent / 100
        self.memory_threshold = min(used + OWN_MEMORY, 0.9)

    def open(self) -> None:
        """Mount the disk and start the tracking server."""
        self.disk.mkdir(parents=True)
        space.mount(self.disk, DISK)
        if self.server is not None:
            self.server.start()
            self.server.wait_until_up()

    def close(self) -> None:
        """Keep the run folders: the disk vanishes with this process."""
        shutil.copytree(self.disk, self.folder, dirs_exist_ok=True)

    @property
    def tracking(self) -> str:
        """The address of MLflow."""
        return database_in(self.folder) if self.server is None else self.server.uri

    @property
    def run(self) -> RunFolder:
        return self.run_of(self.name)

    def run_of(self, name: str) -> RunFolder:
        """Return the folder of a run by its name."""
        return RunFolder(self.disk / "runs" / name)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def contact(self) -> Contact | None:
        """Return the way to the run's Ray head; None while it has none."""
        try:
            return Contact.read(self.run.path / FILE)
        except (OSError, ValueError):
            return None

    def steps(self) -> int:
        """Return the number of steps on record."""
        file = self.run.path / "metrics.jsonl"
        try:
            return file.read_bytes().count(b"\n")
        except OSError:
            return 0

    def train(self, name: str) -> None:
        """Train to the end, and start again after each preemption.

        Raises:
            RuntimeError: Another exit code than 0.
        """
        self.name = name
        self.starts = 0
        code = PREEMPTED
        while code == PREEMPTED:
            code = self._start()
        if code != 0:
            raise RuntimeError(f"exit code {code} of {name}: {self.log}")

    def _start(self) -> int:
        command = [sys.executable, "-m", "ray_jobs.train", self.preset, *self.settings]
        command += [f"name={self.name}", f"runs={self.disk}/runs"]
        command += [f"tracking.mlflow_uri={self.tracking}"]
        env = os.environ | {"RAY_memory_usage_threshold": f"{self.memory_threshold:.2f}"}
        self.starts += 1
        with self.log.open("a") as log:
            done = subprocess.run(
                command, cwd=REPOSITORY, env=env, stdout=log, stderr=subprocess.STDOUT
            )
        return done.returncode
