"""One run, one owner: a lock beside the run folder, with the host and process of its writer.

    with owned(Path("runs/demo")):
        ...

The lock of `runs/demo` is `runs/.demo.owner.json`. A killed owner leaves its lock behind. The next
owner takes it over, once the process is gone or, on another host, the lock has not been renewed.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from core.files import write_json

# Seconds between renewals, and without one until an owner on another host counts as gone.
RENEW_S = 15.0
STALE_S = 90.0


@dataclass(frozen=True)
class Owner:
    """The process that writes a run folder.

    Attributes:
        host: Name of its machine.
        pid: Number of the process.
        started: Start of the process in seconds since 1970. A later process may get the same pid.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, psutil.Process(pid).create_time())

    def is_running(self) -> bool:
        """Return whether this process of this host still runs."""
        try:
            process = psutil.Process(self.pid)
            is_same = process.create_time() == self.started
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def owner_of(folder: Path) -> Owner | None:
    """Return the process that writes a run folder now, or None."""
    lock = _lock_of(folder)
    owner = _read(lock)
    if owner is None or not _is_alive(lock, owner):
        return None
    return owner


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a run folder, and let it go at the end.

    Raises:
        ValueError: Another process owns the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(folder)
    owner = Owner.here()
    _acquire(folder, lock, owner)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lock, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if _read(lock) == owner:
            lock.unlink()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.owner.json")


def _acquire(folder: Path, lock: Path, owner: Owner) -> None:
    # Two processes that start together must not both find the lock free.
    with _turn(lock.parent):
        other = _read(lock)
        if other is not None and _is_alive(lock, other):
            raise ValueError(
                f"{folder} is written by process {other.pid} on {other.host}: choose another "
                f"name=..., or stop that process; if it is gone, delete {lock}"
            )
        write_json(lock, asdict(owner))


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the block."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_alive(lock: Path, owner: Owner) -> bool:
    if owner.host == socket.gethostname():
        return owner.is_running()
    return time.time() - lock.stat().st_mtime < STALE_S


def _read(lock: Path) -> Owner | None:
    """Return the owner in a lock, or None without a readable one."""
    try:
        return Owner(**json.loads(lock.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _renew(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        # The owner goes on without its lock, for example when somebody deleted it.
        if lock.exists():
            os.utime(lock)
