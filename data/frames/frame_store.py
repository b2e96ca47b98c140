"""Decoded frames that the processes of a node share: one raw file for each, in memory (/dev/shm) where there is room.

A frame is decoded once on a node: who finds it missing decodes it under a lock that the others wait at, and files
appear whole or not at all. The store is bounded: the least recently read frames go first. The last process that leaves
it empties it. Names say what a frame is; this file knows neither videos nor decoders.
"""

from __future__ import annotations

import atexit
import fcntl
import io
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np

CAPACITY = 1 << 30  # bytes: 870 frames of 480 x 854
SHARED_MEMORY = Path("/dev/shm")
LOCKS = 64  # names share them
SHARE = 8  # a process looks at the size after it has added this part of the capacity


@cache
def node_store() -> FrameStore:
    """The store of this node and user. At most a quarter of what is free where it is."""
    places = [p for p in (SHARED_MEMORY, Path(tempfile.gettempdir())) if p.is_dir()]
    place = next((p for p in places if shutil.disk_usage(p).free >= 4 * CAPACITY), places[-1])
    folder = place / f"rayvos-frames-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(
            f"{folder}: belongs to another user: remove it, or set TMPDIR to a folder of your own"
        )
    return FrameStore(folder, min(CAPACITY, shutil.disk_usage(place).free // 4))


def mapped(path: str | Path) -> np.ndarray:
    """The uint8 array of a .npy file, read-only, and the file marked as just read.

    `np.load(path, mmap_mode="r")` does the same in ten times the time, most of it to read the header: rollouts ask for
    sixteen small frames a prompt.
    """
    with open(path, "rb") as file:
        os.utime(file.fileno())
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 10 + int.from_bytes(
        pages[8:10], "little"
    )  # of the data: magic, version and length of the header before
    return np.frombuffer(pages, np.uint8, offset=start).reshape(_shape(pages[8:start]))


@cache
def _shape(header: bytes) -> tuple[int, ...]:
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    assert dtype == np.uint8, f"a frame holds uint8, not {dtype}"
    assert not fortran, "a frame is stored in rows"
    return shape


class FrameStore:
    """Frames by name in a folder that exists. Used by several processes, and several threads of each."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder = folder
        self.capacity = capacity
        self.added = 0  # frames put there by this process, for tests and reports
        self._unseen = capacity  # bytes put there since it was last tidied; so much that the first time is soon
        self._user = open(folder / "users", "w")  # noqa: SIM115  # held open as long as this process uses the store
        fcntl.flock(self._user, fcntl.LOCK_SH)
        atexit.register(self.close)

    def get(self, name: str) -> np.ndarray | None:
        """A frame, mapped read-only: its pixels are read when they are looked at, and stay though the file goes."""
        try:
            return mapped(f"{self.folder}/{name}.npy")
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.npy").is_file()

    def put(self, name: str, file: Path) -> np.ndarray:
        """Takes over a .npy file out of a `scratch` folder; returns it as `get` would."""
        frame_HWC = mapped(file)
        os.replace(file, self.folder / f"{name}.npy")
        self.added += 1
        self._unseen += frame_HWC.nbytes
        return frame_HWC

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder from which `put` takes files; gone afterwards, with what was left in it."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="scratch-") as folder:
            yield Path(folder)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one at a time on this node; given back also by a process that is killed."""
        with open(self.folder / f"lock-{zlib.crc32(name.encode()) % LOCKS}", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def tidy(self) -> None:
        """Removes the least recently read frames, if this process added much: N processes exceed `capacity` by at most
        N / SHARE of it."""
        if self._unseen < self.capacity // SHARE:
            return
        self._unseen = 0
        kept = 0
        for path, status in sorted(self._frames(), key=lambda found: -found[1].st_mtime_ns):
            kept += status.st_size
            if kept > self.capacity:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends this process's use."""
        if self._user.closed:
            return
        with suppress(BlockingIOError):  # others go on using it
            fcntl.flock(self._user, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in self.folder.glob("*.npy"):
                path.unlink(missing_ok=True)
            for left in self.folder.glob("scratch-*"):  # by processes that were killed
                shutil.rmtree(left, ignore_errors=True)
        self._user.close()

    def _frames(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process removed it
                yield path, path.stat()
