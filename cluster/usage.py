"""What this process takes of its machine: memory, and memory of the GPUs that it was given.

    usage().memory_gib      of this process and its children
    usage().gpu_gib         on its GPUs, by all processes there; None without any

Not measured on a GPU yet.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

import psutil

GIB = 2**30
# Looking at all processes of a machine costs some milliseconds: not at every question.
EVERY_S = 10.0
# Longest wait for the answer about GPUs.
GPU_S = 5.0


@dataclass(frozen=True)
class Usage:
    """A process and its memory at one moment.

    Attributes:
        pid: of the process.
        host: name of its machine.
        memory_gib: memory of its own, and of its children. What it shares with others, such as
            Ray's object store and the published weights, does not count.
        gpu_gib: memory in use on the GPUs that it was given, by whomever; None without any.
    """

    pid: int
    host: str
    memory_gib: float
    gpu_gib: float | None


def usage() -> Usage:
    """Return what this process takes, measured at most EVERY_S ago."""
    return _measured(int(time.monotonic() / EVERY_S))


@functools.lru_cache(maxsize=1)
def _measured(moment: int) -> Usage:
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return Usage(os.getpid(), socket.gethostname(), own_gib(), gpu_gib(gpus))


def own_gib() -> float:
    """Return the memory of this process and its children, without what they share."""
    process = psutil.Process()
    total = 0
    for member in (process, *process.children(recursive=True)):
        # A child may end meanwhile, or belong to another user.
        with contextlib.suppress(psutil.Error):
            memory = member.memory_info()
            total += memory.rss - memory.shared
    return total / GIB


def gpu_gib(gpus: str) -> float | None:
    """Return the memory in use on some GPUs; None if there are none, or nothing tells.

    Args:
        gpus: their numbers or names, as in CUDA_VISIBLE_DEVICES.
    """
    program = shutil.which("nvidia-smi")
    if not gpus or program is None:
        return None
    wanted = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={gpus}"]
    try:
        done = subprocess.run([program, *wanted], capture_output=True, text=True, timeout=GPU_S)
        # A line in MiB for each.
        return sum(float(line) for line in done.stdout.split()) / 1024 or None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
