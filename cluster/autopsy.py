"""Ray tasks about a process that hangs, on its own node: is it stopped, its stack, SIGKILL.

A stopped process cannot show its stack. py-spy (it comes with ray[default]) reads it from outside,
where the system lets one process read another (ptrace).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

# Longest reading of one process.
READ_S = 10.0
# Lines of a process that are shown.
MOST_LINES = 60
# The innermost frame of a thread that waits for work: nobody needs to see it,
WAITING = re.compile(
    r"\((ray|asyncio|concurrent|multiprocessing|zmq|tqdm)/|\((threading|selectors|queue)\.py"
)
# unless it waits in code of this project.
OWN = re.compile(r"\((core|configs|data|rewards|systems|models|cluster|actors)/")


@dataclass(frozen=True)
class Seen:
    """Stacks of a process and its children.

    Attributes:
        readable: at least one of them could be read.
    """

    stacks: str
    readable: bool


@ray.remote(num_cpus=0, max_retries=0)
def look(pid: int) -> Seen:
    """Return the Python stacks of a process of this node and of its children."""
    dumps = [stacks_of(member) for member in _family(pid)]
    stacks = "\n".join(dump.stacks for dump in dumps)
    return Seen(stacks, any(dump.readable for dump in dumps))


@ray.remote(num_cpus=0, max_retries=0)
def stopped(pid: int) -> list[int]:
    """Return those of a process of this node and its children that a signal has stopped."""
    found = []
    for member in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if member.status() == psutil.STATUS_STOPPED:
                found.append(member.pid)
    return found


@ray.remote(num_cpus=0, max_retries=0)
def end(pid: int) -> None:
    """Kill a process of this node and its children: one that is stopped would outlive it."""
    for member in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def stacks_of(process: psutil.Process) -> Seen:
    """Return the Python stacks of a process of this machine."""
    title = f"process {process.pid}"
    with contextlib.suppress(psutil.Error):
        title += f" ({process.name()}, {process.status()})"
    # Not paused: a stopped process would be waited for.
    command = [_py_spy(), "dump", "--nonblocking", "--pid", str(process.pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=READ_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Seen(f"{title}: {error}", readable=False)
    if done.returncode:
        return Seen(f"{title}: {done.stderr.strip()}", readable=False)
    return Seen(f"{title}\n{busy_threads(done.stdout)}", readable=True)


def _py_spy() -> str:
    beside_python = Path(sys.executable).with_name("py-spy")
    return str(beside_python) if beside_python.exists() else shutil.which("py-spy") or "py-spy"


def busy_threads(dump: str) -> str:
    """Return the threads of py-spy's output that do more than wait for work."""
    _, *threads = re.split(r"^(?=Thread )", dump, flags=re.MULTILINE)
    busy = [thread.rstrip() for thread in threads if _is_busy(thread.splitlines()[1:])]
    lines = "\n".join(busy or threads).splitlines()
    return "\n".join(lines[:MOST_LINES])


def _is_busy(frames: Sequence[str]) -> bool:
    waits = bool(frames) and WAITING.search(frames[0]) is not None
    return not waits or any(OWN.search(frame) for frame in frames)
