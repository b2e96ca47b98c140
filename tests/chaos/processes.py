"""The processes of a trial by kind, also those whose parent has died."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import psutil

# Beginnings of the command lines, by kind. Ray puts class and method of an actor there.
TITLES = {
    "rollout": "ray::RolloutActor",
    "engine": "VLLM::EngineCore",
    "reward": "ray::RewardActor",
    "segmenter": "ray::SegmenterActor",
    "learner": "ray::LearnerActor",
}
JOB = "ray_jobs.train"


def alive() -> list[psutil.Process]:
    """Return all running processes in this namespace but this one, oldest first."""
    own = _namespace_of(os.getpid())
    found = []
    for process in psutil.process_iter():
        is_other = process.pid != os.getpid()
        if is_other and _namespace_of(process.pid) == own and is_running(process):
            found.append(process)
    return sorted(found, key=psutil.Process.create_time)


def of_kind(kind: str) -> list[psutil.Process]:
    """Return the running processes of a kind, oldest first."""
    return [process for process in alive() if kind_of(process) == kind]


def at_work(kind: str, method: str) -> list[psutil.Process]:
    """Return the actors of a kind that are in a method."""
    title = f"{TITLES[kind]}.{method}"
    return [process for process in alive() if words_of(process)[:1] == [title]]


def kind_of(process: psutil.Process) -> str:
    """Return the kind of a process: one of `TITLES`, "supervisor", "driver" or ""."""
    words = words_of(process)
    for kind, title in TITLES.items():
        if words and words[0].startswith(title):
            return kind
    if JOB not in words:
        return ""
    try:
        # The driver has the command line of its parent.
        return "supervisor" if process.ppid() == os.getpid() else "driver"
    except psutil.NoSuchProcess:
        return ""


def words_of(process: psutil.Process) -> list[str]:
    """Return the command line of a process, or nothing if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def is_running(process: psutil.Process) -> bool:
    """Return False also for a dead process without a wait, a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal; return False if the process has ended."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def tree_of(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all below it."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(victims: Sequence[psutil.Process]) -> None:
    """Kill processes that start others: all are stopped first."""
    for victim in victims:
        send(victim, signal.SIGSTOP)
    for victim in victims:
        send(victim, signal.SIGKILL)


def end_all() -> None:
    """Kill all that is left of the trial."""
    kill(alive())


def _namespace_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""
