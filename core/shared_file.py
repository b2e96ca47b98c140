"""Files in memory without a name, shared by the processes of one machine.

The kernel gives such a file back once no process has it open or mapped any more, however these
processes ended: nothing is left in `/dev/shm`.

A reader holds a shared lock on what it may read, and the writer writes only over what nobody holds.
The locks of a dead process are gone with it. A stamp behind the data says which contents are in it,
so that a late reader notices that a file was written anew. Behind the stamp, readers leave each
other a note of what they found in these contents.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

# How the system lists these files, among the open files of a process.
SHARED_NAME = "rayvos_weights"

STAMP_BYTES = 16

# Seconds to wait for the note at most, and between two looks at it.
PATIENCE_S = 30.0
LOOK_S = 0.0005

# Environment variable with the bytes that a job asks of its nodes' store of decoded frames
# (`data.frames.frame_store`).
FRAME_STORE = "RAYVOS_FRAME_STORE"


@dataclass(frozen=True)
class Place:
    """Where the processes of a machine find the contents of a shared file.

    Attributes:
        machine: `this_machine()` of its writer.
        path: among the open files of a process.
        size: bytes of the data.
        stamp: names the contents.
    """

    machine: str
    path: str
    size: int
    stamp: bytes

    @property
    def is_here(self) -> bool:
        """Whether this process is on the machine of the file."""
        return self.machine == this_machine()


def this_machine() -> str:
    """Return a name of this machine, or of this container where it hides other processes."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


class SharedFile:
    """A shared file in the process that writes it.

    Attributes:
        data: its bytes, mapped; zeros at first.
    """

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create(SHARED_NAME)
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, size + STAMP_BYTES)
        whole = np.frombuffer(mmap.mmap(self.fd, size + STAMP_BYTES), dtype=np.uint8)
        self.data = whole[:size]
        self._stamp = whole[size:]

    def begin(self) -> bool:
        """Take the file for new contents; return False if somebody may still read the old ones."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._stamp[:] = 0
        # The note of the old contents goes.
        os.ftruncate(self.fd, len(self.data) + STAMP_BYTES)
        return True

    def finish(self) -> Place:
        """Stamp the new contents and let others read them."""
        stamp = os.urandom(STAMP_BYTES)
        self._stamp[:] = np.frombuffer(stamp, dtype=np.uint8)
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return Place(this_machine(), path_of(self.fd), len(self.data), stamp)


class Held:
    """Contents of a shared file that nobody writes over while this object lives.

    They outlive the process that wrote them.

    Attributes:
        place: the same contents by way of this process.
    """

    def __init__(self, fd: int, place: Place) -> None:
        self.place = Place(place.machine, path_of(fd), place.size, place.stamp)
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)

    def data(self) -> np.ndarray:
        """Return the contents, for reading only."""
        whole = mmap.mmap(self._fd, self.place.size + STAMP_BYTES, prot=mmap.PROT_READ)
        return np.frombuffer(whole, dtype=np.uint8)[: self.place.size]

    def close(self) -> None:
        """Let go of the contents."""
        self._close()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A copy in another process would hold nothing.
        return type(None), ()


def hold(place: Place) -> Held | None:
    """Hold the contents of a place; None if they are gone: its process let go of them, or ended.

    Raises:
        ValueError: this process may not look at the files of the other one.
    """
    try:
        # A number that was given to a pipe meanwhile must not block.
        fd = os.open(place.path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError as error:
        raise ValueError(
            f"{place.path}: the weights there cannot be read ({error.strerror}); run learner and "
            "engines of one machine as one user, or set cluster.weight_path=full"
        ) from error
    except OSError:
        return None
    held = Held(fd, place)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = os.pread(fd, STAMP_BYTES, place.size)
    except OSError:
        # It is being written anew, or is no file at all by now.
        found = b""
    if found != place.stamp:
        held.close()
        return None
    return held


@contextmanager
def readers_note(path: str, size: int) -> Iterator[bytearray]:
    """Yield the note that earlier readers of a shared file left, to be changed; empty at first.

    One reader has it at a time; others wait, though not for ever: a reader that stands still must
    not stop them. It is left as it was if an exception ends the context.

    Args:
        path: of the file, whose contents this process or its parent holds.
        size: bytes of the data.
    """
    start = size + STAMP_BYTES
    fd = os.open(path, os.O_RDWR)
    try:
        until = time.monotonic() + PATIENCE_S
        while not _note_is_mine(fd) and time.monotonic() < until:
            time.sleep(LOOK_S)
        length = max(os.fstat(fd).st_size - start, 0)
        note = bytearray(os.pread(fd, length, start))
        yield note
        os.pwrite(fd, note, start)
    finally:
        os.close(fd)


def _note_is_mine(fd: int) -> bool:
    """Take the lock of the note, if nobody has it."""
    try:
        # Not `flock`: that one tells the writer that somebody reads.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def path_of(fd: int) -> str:
    """Return the path under which other processes of this user open a file without a name."""
    return f"/proc/{os.getpid()}/fd/{fd}"
