"""Faults that happen to a run: processes killed and stopped, memory and disk full, nodes that go.

A fault is a function of a trial. It returns what it hurt, or "" where it found nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from actors.learner import LearnerActor
from actors.rollout import RolloutActor
from configs.load import REPOSITORY
from tests.chaos import processes
from tests.chaos.trial import Trial

Fault = Callable[[Trial], str]

RAY = str(Path(sys.executable).with_name("ray"))

# Longest search for a victim: an actor may just be starting again.
SEARCH_S = 15.0
# Longest time to fill the memory of the machine.
FILL_S = 120.0
# Seconds of a silent server and of a full disk.
SILENT_S = 10.0
FULL_S = 10.0
# Shortest and longest visit of a node: it may go before an engine is up on it, or after.
VISIT_S = (10.0, 60.0)
# Bytes that the memory monitor's balloon grows by, and its growth beyond the monitor's threshold.
GULP = 256 << 20
BEYOND = 0.02


def looks(trial: Trial, every_s: float, longest_s: float = SEARCH_S) -> Iterator[None]:
    """Yield again and again while a search may go on and the run has not ended."""
    deadline = time.monotonic() + longest_s
    while time.monotonic() < deadline and not trial.ended.is_set():
        yield
        trial.ended.wait(every_s)


def hit(victim: psutil.Process, number: signal.Signals) -> str:
    return str(victim.pid) if processes.send(victim, number) else ""


def to_one(kind: str, number: signal.Signals) -> Fault:
    """Return the fault that sends a signal to some process of a kind."""

    def inflict(trial: Trial) -> str:
        for _ in looks(trial, 0.2):
            found = processes.of_kind(kind)
            if found:
                return hit(trial.rng.choice(found), number)
        return ""

    return inflict


def to_idle_engine(number: signal.Signals) -> Fault:
    """Return the fault that hits an engine while the learner ends a step: all groups are played."""

    def inflict(trial: Trial) -> str:
        for _ in looks(trial, 0.05):
            engines = processes.of_kind("engine")
            if engines and processes.at_work("learner", LearnerActor.finish.__name__):
                return hit(trial.rng.choice(engines), number)
        return ""

    return inflict


def to_one_in(kind: str, method: Callable[..., Any], number: signal.Signals) -> Fault:
    """Return the fault that hits an actor in one of its methods."""

    def inflict(trial: Trial) -> str:
        for _ in looks(trial, 0.05):
            found = processes.at_work(kind, method.__name__)
            if found:
                return hit(trial.rng.choice(found), number)
        return ""

    return inflict


def scale(trial: Trial) -> str:
    """Ask the run for another number of engines, as a user does."""
    workers = trial.rng.randint(1, 3)
    command = [sys.executable, "-m", "ray_jobs.control", str(trial.run.path), f"workers={workers}"]
    with (trial.folder / "control.log").open("a") as log:
        code = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=log).returncode
    return f"{workers} engines" if code == 0 else ""


def stop_driver(trial: Trial) -> str:
    """Stop the driver of an opened run: before that its parent knows no limit of its silence."""
    for _ in looks(trial, 0.2):
        drivers = processes.of_kind("driver")
        if drivers and trial.contact() is not None:
            return hit(drivers[0], signal.SIGSTOP)
    return ""


def end_mlflow(trial: Trial) -> str:
    """Kill the tracking server; another one starts some seconds later."""
    if trial.server is None:
        return ""
    trial.server.stop()
    time.sleep(5)
    trial.server.start()
    return "the server"


def stop_mlflow(trial: Trial) -> str:
    """Let the tracking server be silent for a while, with its connections open."""
    server = trial.server
    if server is None or server.process is None:
        return ""
    members = processes.tree_of(psutil.Process(server.process.pid))
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for member in members:
            processes.send(member, number)
        trial.ended.wait(SILENT_S)
    return "the server"


def fill_memory(trial: Trial) -> str:
    """Take memory until the run says that Ray's monitor killed an actor of it, then let go."""
    before = memory_kills(trial)
    balloon: list[bytes] = []
    for _ in looks(trial, 0.1, FILL_S):
        if memory_kills(trial) > before:
            return f"{len(balloon) * GULP >> 20} MiB taken"
        used = psutil.virtual_memory().percent / 100
        if used < trial.memory_threshold + BEYOND:
            balloon.append(b"\1" * GULP)
    return ""


def memory_kills(trial: Trial) -> int:
    """Return how many deaths by Ray's memory monitor the run has told."""
    return trial.log.read_text(errors="replace").count("Ray's memory monitor killed it")


def fill_disk(trial: Trial) -> str:
    """Leave no byte free on the disk of the run for a while."""
    filler = trial.disk / "filler"
    try:
        with filler.open("wb", buffering=0) as out:
            while True:
                out.write(b"\1" * (1 << 20))
    except OSError:
        # It is full now.
        time.sleep(FULL_S)
    filler.unlink()
    return str(trial.disk)


def visit_of_a_node(trial: Trial) -> str:
    """Let a second node join the cluster of the run, then kill it with all that runs on it."""
    contact = trial.contact()
    if contact is None:
        return ""
    env = os.environ | {"RAY_AUTH_MODE": contact.auth} if contact.auth else os.environ
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as own:
        command = [RAY, "start", "--block", f"--address={contact.address}", "--num-cpus=8"]
        command += [f"--temp-dir={own}", "--disable-usage-stats"]
        with (trial.folder / "node.log").open("a") as log:
            node = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        trial.ended.wait(trial.rng.uniform(*VISIT_S))
        has_joined = node.poll() is None
        processes.kill(processes.tree_of(psutil.Process(node.pid)))
        node.wait()
    return "its raylet" if has_joined else ""


KILL = signal.SIGKILL
STOP = signal.SIGSTOP

FAULTS: dict[str, Fault] = {
    "kill rollout": to_one("rollout", KILL),
    "stop rollout": to_one("rollout", STOP),
    "kill engine": to_one("engine", KILL),
    "stop engine": to_one("engine", STOP),
    "kill idle engine": to_idle_engine(KILL),
    "stop idle engine": to_idle_engine(STOP),
    "kill reward": to_one("reward", KILL),
    "stop reward": to_one("reward", STOP),
    "kill segmenter": to_one("segmenter", KILL),
    "stop segmenter": to_one("segmenter", STOP),
    "kill learner": to_one("learner", KILL),
    "stop learner": to_one("learner", STOP),
    "kill learner in publish": to_one_in("learner", LearnerActor.publish, KILL),
    "kill rollout in take": to_one_in("rollout", RolloutActor.take, KILL),
    "kill driver": to_one("driver", KILL),
    "stop driver": stop_driver,
    "SIGTERM": to_one("supervisor", signal.SIGTERM),
    "kill MLflow": end_mlflow,
    "stop MLflow": stop_mlflow,
    "full memory": fill_memory,
    "full disk": fill_disk,
    "a node joins and dies": visit_of_a_node,
    "other number of engines": scale,
}
