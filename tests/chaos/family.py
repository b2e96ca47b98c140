"""All processes of a run, by kind, also those whose parent has died.

Ray's workers lose their parent when a driver is killed, so the tree is read again and again, and
every process that was ever seen in it is remembered.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

# Seconds between two looks at the tree.
LOOK_S = 0.2

# Beginnings of the command lines, by kind. Ray puts class and method of an actor there.
TITLES = {
    "rollout": "ray::RolloutActor",
    "engine": "VLLM::EngineCore",
    "reward": "ray::RewardActor",
    "segmenter": "ray::SegmenterActor",
    "drawer": "ray::Drawer",
    "learner": "ray::LearnerActor",
}
JOB = "ray_jobs.train"


class Family:
    """The processes of the runs that were started below some roots."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], psutil.Process] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def add(self, pid: int) -> None:
        """Follow a process and all that it will start."""
        self._remember([psutil.Process(pid)])

    def alive(self) -> list[psutil.Process]:
        """Return all processes that still run, oldest first."""
        with self._lock:
            seen = list(self._seen.values())
        running = [process for process in seen if is_running(process)]
        return sorted(running, key=lambda process: process.create_time())

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """Return the running processes of a kind, oldest first: learner ranks by their number."""
        return [process for process in self.alive() if kind_of(process) == kind]

    def close(self) -> None:
        """Stop following."""
        self._ended.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            found: list[psutil.Process] = []
            for process in self.alive():
                found += children_of(process)
            self._remember(found)

    def _remember(self, processes: Sequence[psutil.Process]) -> None:
        with self._lock:
            for process in processes:
                self._seen[process.pid, process.create_time()] = process


def is_running(process: psutil.Process) -> bool:
    """Return False also for a dead process without a wait, a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def words_of(process: psutil.Process) -> list[str]:
    """Return the command line of a process, or nothing if it has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def kind_of(process: psutil.Process) -> str:
    """Return the kind of a process: one of `TITLES`, "driver", "supervisor" or ""."""
    words = words_of(process)
    if not words:
        return ""
    for kind, title in TITLES.items():
        if words[0].startswith(title):
            return kind
    if JOB not in words:
        return ""
    # The supervisor is the parent of the driver, and both have the same command line.
    has_job_below = any(JOB in words_of(child) for child in children_of(process))
    return "supervisor" if has_job_below else "driver"


def shared_memory() -> set[str]:
    """Return the names of all files in shared memory."""
    return {path.name for path in Path("/dev/shm").iterdir()}
