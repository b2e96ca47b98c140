"""Worker processes that fill shared memory with lessons, so that who learns never waits for them.

They are forked before any GPU is touched. Knows no family, no dialogue and no loss.
"""

from __future__ import annotations

import mmap
import multiprocessing as mp
import queue
import traceback
from typing import Any

import cv2
import numpy as np

from tiny.school.lessons import Layout, Teacher, fill

CHUNK = 8  # lessons that travel together


def arrays(buffer: Any, layout: Layout, chunk: int = CHUNK) -> dict[str, np.ndarray]:
    """The arrays of `chunk` lessons inside a buffer of `chunk_bytes(layout, chunk)`."""
    views = {}
    offset = 0
    for name, (shape, dtype) in layout.items():
        view = np.ndarray((chunk, *shape), dtype, buffer, offset)
        views[name] = view
        offset += -(-view.nbytes // 64) * 64
    return views


def chunk_bytes(layout: Layout, chunk: int = CHUNK) -> int:
    sizes = (
        chunk * int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values()
    )
    return sum(-(-size // 64) * 64 for size in sizes)


class School:
    """Worker processes that fill shared memory with lessons. Anonymous memory: no limit of /dev/shm applies."""

    def __init__(self, teacher: Teacher, seed: int, workers: int, slots: int) -> None:
        context = mp.get_context("fork")
        self._memory = [mmap.mmap(-1, chunk_bytes(teacher.layout)) for _ in range(slots)]
        self.slots = [arrays(memory, teacher.layout) for memory in self._memory]
        self._free = context.Queue()
        self._full = context.Queue()
        self._processes = [
            context.Process(
                target=self._work, args=(teacher, np.random.SeedSequence([seed, i])), daemon=True
            )
            for i in range(workers)
        ]
        for process in self._processes:
            process.start()
        for slot in range(slots):
            self._free.put(slot)

    def _work(self, teacher: Teacher, seed: np.random.SeedSequence) -> None:
        cv2.setNumThreads(0)
        rng = np.random.default_rng(seed)
        try:
            while True:
                slot = self._free.get()
                for row in range(CHUNK):
                    fill(self.slots[slot], row, rng, teacher)
                self._full.put(slot)
        except BaseException:
            traceback.print_exc()
            raise

    def take(self) -> int:
        """A filled slot; give it back with `free`.

        Raises:
            RuntimeError: no worker is alive any more.
        """
        while True:
            try:
                return self._full.get(timeout=20)
            except queue.Empty:
                if not any(process.is_alive() for process in self._processes):
                    raise RuntimeError(
                        "every lesson worker has died; its traceback stands above"
                    ) from None

    def free(self, slot: int) -> None:
        self._free.put(slot)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
