"""Faults that happen to a run: processes killed and stopped, memory and disk full, nodes that go.

A fault is a function of a trial. It returns False where it found nobody to hurt.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from ray_jobs.record.run_folder import RunFolder
from tests.chaos.family import Family, is_running, words_of

RAY = str(Path(sys.executable).with_name("ray"))

# Longest wait for a victim: an actor may just be starting again.
VICTIM_S = 60.0
# Seconds of a full disk, and of a node's visit.
FULL_S = 10.0
NODE_S = 15.0
# Bytes that the memory monitor's balloon grows by.
GULP = 256 << 20


class Trial(Protocol):
    """The parts of a trial that faults reach for.

    Attributes:
        disk: The file system of the run, alone on it; None where none could be mounted.
        memory_threshold: Share of the machine's memory above which Ray kills a worker.
    """

    family: Family
    rng: random.Random
    disk: Path | None
    memory_threshold: float

    @property
    def run(self) -> RunFolder: ...

    def address(self) -> str:
        """Return the address of the run's Ray head; empty while it has none."""

    def restart_mlflow(self) -> None:
        """Kill the tracking server and start it again."""


Fault = Callable[[Trial], bool]


def send(kind: str, number: signal.Signals, index: int | None = None) -> Fault:
    """Return the fault that sends a signal to a process of a kind.

    Args:
        index: Its place by age; None draws one.
    """

    def inflict(trial: Trial) -> bool:
        victim = wait_for_victim(trial, kind, index)
        return victim is not None and hit(victim, number)

    return inflict


def wait_for_victim(trial: Trial, kind: str, index: int | None) -> psutil.Process | None:
    deadline = time.monotonic() + VICTIM_S
    while time.monotonic() < deadline:
        found = trial.family.of_kind(kind)
        if index is None and found:
            return trial.rng.choice(found)
        if index is not None and len(found) > index:
            return found[index]
        time.sleep(0.2)
    return None


def hit(victim: psutil.Process, number: signal.Signals) -> bool:
    try:
        victim.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def kill_idle_engine(trial: Trial) -> bool:
    """Kill an engine while the learner works, and nobody waits for the engine."""
    deadline = time.monotonic() + VICTIM_S
    while time.monotonic() < deadline:
        learners = trial.family.of_kind("learner")
        if any(words_of(learner)[:1] == ["ray::LearnerActor.learn"] for learner in learners):
            engines = trial.family.of_kind("engine")
            return bool(engines) and hit(trial.rng.choice(engines), signal.SIGKILL)
        time.sleep(0.02)
    return False


def fill_memory(trial: Trial) -> bool:
    """Take memory until Ray's monitor kills a worker of the run, then let go."""
    workers = []
    for process in trial.family.alive():
        if "ray::" in "".join(words_of(process)[:1]):
            workers.append(process)
    balloon = []
    deadline = time.monotonic() + VICTIM_S
    while time.monotonic() < deadline:
        if not all(is_running(worker) for worker in workers):
            return True
        memory = psutil.virtual_memory()
        if memory.percent / 100 < trial.memory_threshold + 0.02:
            balloon.append(b"\1" * GULP)
        time.sleep(0.1)
    return False


def fill_disk(trial: Trial) -> bool:
    """Leave no byte free on the disk of the run for a while."""
    if trial.disk is None:
        return False
    filler = trial.disk / "filler"
    try:
        with filler.open("wb", buffering=0) as out:
            while True:
                out.write(b"\1" * (1 << 20))
    except OSError:
        # It is full now.
        time.sleep(FULL_S)
    filler.unlink()
    return True


def visit_of_a_node(trial: Trial) -> bool:
    """Let a second node join the cluster of the run, then kill it with all that runs on it."""
    address = trial.address()
    if not address:
        return False
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command = [RAY, "start", "--block", f"--address={address}", "--num-cpus=2"]
    command += [f"--temp-dir={folder}", "--disable-usage-stats"]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(NODE_S)
    has_joined = node.poll() is None
    kill_all([psutil.Process(node.pid)] if has_joined else [])
    node.wait()
    return has_joined


def kill_all(roots: Sequence[psutil.Process]) -> None:
    """Kill processes with all their children, children first stopped from starting others."""
    for root in roots:
        family = [root, *root.children(recursive=True)]
        for process in family:
            hit(process, signal.SIGSTOP)
        for process in reversed(family):
            hit(process, signal.SIGKILL)


def end_mlflow(trial: Trial) -> bool:
    """Kill the tracking server; another one starts some seconds later."""
    trial.restart_mlflow()
    return True


KILL = signal.SIGKILL
STOP = signal.SIGSTOP

FAULTS: dict[str, Fault] = {
    "kill rollout": send("rollout", KILL),
    "stop rollout": send("rollout", STOP),
    "kill engine": send("engine", KILL),
    "kill idle engine": kill_idle_engine,
    "stop engine": send("engine", STOP),
    "kill reward": send("reward", KILL),
    "stop reward": send("reward", STOP),
    "kill segmenter": send("segmenter", KILL),
    "stop segmenter": send("segmenter", STOP),
    "kill learner 0": send("learner", KILL, 0),
    "kill learner 1": send("learner", KILL, 1),
    "stop learner 0": send("learner", STOP, 0),
    "stop learner 1": send("learner", STOP, 1),
    "kill driver": send("driver", KILL),
    "end driver (SIGTERM)": send("supervisor", signal.SIGTERM),
    "kill MLflow": end_mlflow,
    "full memory": fill_memory,
    "full disk": fill_disk,
    "a node joins and dies": visit_of_a_node,
}
