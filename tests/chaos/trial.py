"""A training run under faults: it is started, hurt at random moments, and waited for."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from configs.load import REPOSITORY
from ray_jobs.record.contact import FILE, Contact
from ray_jobs.record.run_folder import RunFolder
from tests.chaos.family import Family
from tests.chaos.faults import FAULTS, kill_all
from tests.ray_jobs.conftest import environment

# Exit code of a run that was asked to end and wants to be started again.
AGAIN = 75
# Longest delay of a fault after the beginning of its step.
DELAY_S = 20.0
# Room of the run's own disk.
DISK_MB = 512


@dataclass(frozen=True)
class Planned:
    """A fault to come.

    Attributes:
        kind: One of `FAULTS`.
        step: It waits until this step is on record.
        delay_s: And for these seconds.
    """

    kind: str
    step: int
    delay_s: float


@dataclass(frozen=True)
class Inflicted:
    """A fault that happened.

    Attributes:
        at_s: Seconds since the start of the trial.
        hit: Whether there was somebody to hurt.
    """

    planned: Planned
    at_s: float
    hit: bool


def plan(rng: random.Random, steps: int, faults: int, kinds: Sequence[str]) -> list[Planned]:
    """Draw faults: every kind in turn, at random moments of the run."""
    moments = sorted(rng.randrange(steps) for _ in range(faults))
    drawn: list[str] = []
    while len(drawn) < faults:
        drawn += rng.sample(list(kinds), len(kinds))
    planned = []
    for kind, step in zip(drawn, moments, strict=False):
        planned.append(Planned(kind, step, rng.uniform(0, DELAY_S)))
    return planned


@dataclass
class Server:
    """An MLflow server of our own.

    Attributes:
        folder: Place of its database and log.
    """

    folder: Path
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database]
        with (self.folder / "mlflow.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            kill_all([psutil.Process(self.process.pid)])
            self.process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class ChaosTrial:
    """A disk, a tracking server, and the runs on them (`tests.chaos.faults.Trial`).

    Attributes:
        disk: File system of the runs; None where this user may not mount one.
        name: Name of the newest run.
        starts: Number of starts of the newest run; those after an end by itself are ours.
    """

    def __init__(self, folder: Path, settings: Sequence[str], seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.home = folder / "disk"
        self.home.mkdir(parents=True, exist_ok=True)
        self.disk = self.home if mount(self.home) else None
        self.name = ""
        self.server = Server(folder)
        self.family = Family()
        self.settings = list(settings)
        self.starts = 0
        self.inflicted: list[Inflicted] = []
        used = psutil.virtual_memory().percent / 100
        # Ray's monitor acts above this share: some gigabytes above what the run takes.
        self.memory_threshold = min(used + 0.5, 0.95)

    @property
    def run(self) -> RunFolder:
        return self.run_of(self.name)

    def run_of(self, name: str) -> RunFolder:
        """Return the folder of a run by its name."""
        return RunFolder(self.home / "runs" / name)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def address(self) -> str:
        """Return the address of the run's Ray head; empty while it has none."""
        file = self.run.path / FILE
        return Contact.read(file).address if file.exists() else ""

    def restart_mlflow(self) -> None:
        self.server.stop()
        time.sleep(5)
        self.server.start()

    def train(self, name: str, planned: Sequence[Planned] = ()) -> int:
        """Train to the end under faults, starting again after a preemption; return the exit code.

        Args:
            name: Name of the run.
        """
        self.name = name
        self.starts = 0
        began = time.monotonic()
        ended = threading.Event()
        hurting = threading.Thread(target=self._hurt, args=(planned, began, ended))
        hurting.start()
        try:
            while True:
                code = self._start()
                if code != AGAIN:
                    return code
        finally:
            ended.set()
            hurting.join()

    def _start(self) -> int:
        command = [sys.executable, "-m", "ray_jobs.train", "revseg_tiny", *self.settings]
        command += [f"name={self.name}", f"runs={self.home}/runs"]
        command += [f"tracking.mlflow_uri={self.server.uri}"]
        env = environment() | {"RAY_memory_usage_threshold": f"{self.memory_threshold:.2f}"}
        self.starts += 1
        with self.log.open("a") as log:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env=env, stdout=log, stderr=subprocess.STDOUT
            )
        self.family.add(process.pid)
        return process.wait()

    def _hurt(self, planned: Sequence[Planned], began: float, ended: threading.Event) -> None:
        for fault in planned:
            while self._steps() < fault.step and not ended.is_set():
                ended.wait(0.2)
            if ended.wait(fault.delay_s):
                return
            at_s = time.monotonic() - began
            hit = FAULTS[fault.kind](self)
            self.inflicted.append(Inflicted(fault, at_s, hit))
            outcome = "" if hit else ": nobody to hurt"
            print(f"{at_s:6.0f} s  step {self._steps():3}  {fault.kind}{outcome}", flush=True)

    def _steps(self) -> int:
        """Return the number of steps on record."""
        file = self.run.path / "metrics.jsonl"
        try:
            return file.read_bytes().count(b"\n")
        except OSError:
            return 0


@contextlib.contextmanager
def trial(folder: Path, settings: Sequence[str], seed: int) -> Iterator[ChaosTrial]:
    """Make the disk and the tracking server of a trial, and end all that is left of it."""
    made = ChaosTrial(folder, settings, seed)
    try:
        made.server.start()
        yield made
    finally:
        made.server.stop()
        kill_all(made.family.alive())
        made.family.close()
        if made.disk is not None:
            subprocess.run(["umount", "-l", str(made.disk)], check=False)


def mount(folder: Path) -> bool:
    """Mount a file system of `DISK_MB` in memory; return False where this is not allowed."""
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
