"""Decoded frames, shared by the processes of a node: one raw file each, in /dev/shm if it has room.

A frame is decoded once on a node. The first process to miss it decodes it under a lock, while
others wait, though not for ever; files appear whole or not at all. The store is bounded: the least
recently read frames go first. The last process to leave empties it.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import io
import mmap
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from core.pulse import tick
from core.shared_file import FRAME_STORE

# Bytes of a store, unless the job asks for more: 436 frames of 480 x 854.
CAPACITY = 512 << 20
# Free bytes that memory needs as its place; with less it is on a disk.
ROOM = 4 << 30
SHARED_MEMORY = Path("/dev/shm")
# Number of lock files; the names of frames share them.
LOCKS = 64
# Seconds to wait for a lock at most, and between two looks at it.
PATIENCE_S = 30.0
LOOK_S = 0.002
# A process checks the size of the store after it added this part (1 / SHARE) of the capacity.
SHARE = 8


@cache
def node_store() -> FrameStore:
    """Return the store of this node and user: at most a quarter of the free space."""
    place = Path(tempfile.gettempdir())
    if SHARED_MEMORY.is_dir() and _has_room(SHARED_MEMORY):
        place = SHARED_MEMORY

    folder = place / f"rayvos-frames-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(
            f"{folder}: belongs to another user: remove it, or set TMPDIR to a folder of your own"
        )
    wanted = max(CAPACITY, int(os.environ.get(FRAME_STORE, CAPACITY)))
    return FrameStore(folder, min(wanted, shutil.disk_usage(place).free // 4))


def content_name(path: str) -> str:
    """Return a name for the content of a file; it changes when the file changes.

    Raises:
        ValueError: There is no such file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; is the data set complete?") from error
    text = f"{os.path.abspath(path)}|{status.st_mtime_ns}|{status.st_size}"
    # A name of a file may hold bytes of any encoding.
    return hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()


def _locked(file: IO[str]) -> bool:
    """Take the lock of an open file, if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_room(place: Path) -> bool:
    return shutil.disk_usage(place).free >= ROOM


def mapped(path: str | Path) -> np.ndarray:
    """Return the uint8 array of a .npy file, read-only, and mark the file as just read.

    Raises:
        ValueError: The file is empty, cut, or of another kind.
    """
    # `np.load(path, mmap_mode="r")` takes ten times as long, mostly to read the header, and
    # rollouts ask for sixteen small frames a prompt.
    with open(path, "rb") as file:
        os.utime(file.fileno())
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Before the header lie 8 bytes of magic and version, and 2 bytes of its length.
    start = 10 + int.from_bytes(pages[8:10], "little")
    shape = _shape(pages[8:start])
    return np.frombuffer(pages, np.uint8, offset=start).reshape(shape)


@cache
def _shape(header: bytes) -> tuple[int, ...]:
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    if dtype != np.uint8 or fortran:
        raise ValueError(f"a frame holds uint8 row by row, not {dtype}")
    return shape


class FrameStore:
    """Frames by name in an existing folder, for several processes and several threads of each.

    Attributes:
        added: Number of frames put into the store by this process.
        indices: Folder of the indices of video files (`data.frames.picture_index`).
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder = folder
        self.wanted = capacity
        self.added = 0
        self.indices = folder / "indices"
        self.indices.mkdir(exist_ok=True)
        # Bytes put since the last check of the size. It starts full, so the first check comes soon.
        self._unchecked = capacity
        # This process holds a shared lock on this file while it uses the store.
        self._user = open(folder / "users", "w")  # noqa: SIM115
        fcntl.flock(self._user, fcntl.LOCK_SH)
        # The name of an empty file says the bytes, because a process may ask for less than others.
        (folder / f"capacity-{capacity}").touch()
        atexit.register(self.close)

    @property
    def capacity(self) -> int:
        """Bytes of the store: the most that any of its processes asked for."""
        asked = [int(file.name.partition("-")[2]) for file in self._capacities()]
        return max(asked, default=self.wanted)

    def get(self, name: str) -> np.ndarray | None:
        """Return a frame, mapped read-only; it stays readable if its file is removed.

        A file that something emptied or cut is no frame, so that it is decoded again.
        """
        try:
            return mapped(f"{self.folder}/{name}.npy")
        except (FileNotFoundError, ValueError):
            return None

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.npy").is_file()

    def put(self, name: str, file: Path) -> np.ndarray:
        """Move a .npy file from a `scratch` folder into the store, and return it as `get` does."""
        frame_HWC = mapped(file)
        os.replace(file, self.folder / f"{name}.npy")
        self.added += 1
        self._unchecked += frame_HWC.nbytes
        return frame_HWC

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder to write files for `put` into, and remove it afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="scratch-") as folder:
            yield Path(folder)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of a name, one process at a time. A killed process gives it back.

        It saves work, and guards nothing: after PATIENCE_S the block runs without it. A process
        that stands still must not stop another one, which would decode the frame itself.
        """
        number = zlib.crc32(os.fsencode(name)) % LOCKS
        with open(self.folder / f"lock-{number}", "w") as file:
            until = time.monotonic() + PATIENCE_S
            while not _locked(file) and time.monotonic() < until:
                # Others decode meanwhile.
                tick()
                time.sleep(LOOK_S)
            yield

    def tidy(self) -> None:
        """Remove the least recently read frames, if this process added many.

        N processes exceed `capacity` by at most N / SHARE of it.
        """
        if self._unchecked < self.wanted // SHARE:
            return
        self._unchecked = 0
        capacity = self.capacity
        newest_first = sorted(self._frames(), key=lambda found: -found[1].st_mtime_ns)
        size = 0
        for path, status in newest_first:
            size += status.st_size
            if size > capacity:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """End this process's use, and empty the store if no other process uses it."""
        if self._user.closed:
            return
        # The exclusive lock is refused while another process holds its shared one.
        with suppress(BlockingIOError):
            fcntl.flock(self._user, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in self.folder.glob("*.npy"):
                path.unlink(missing_ok=True)
            for path in (*self.indices.iterdir(), *self._capacities()):
                path.unlink(missing_ok=True)
            # Killed processes leave their scratch folders.
            for folder in self.folder.glob("scratch-*"):
                shutil.rmtree(folder, ignore_errors=True)
        self._user.close()

    def _frames(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*.npy"):
            # Another process may have removed it.
            with suppress(FileNotFoundError):
                yield path, path.stat()

    def _capacities(self) -> Iterator[Path]:
        return self.folder.glob("capacity-*")
