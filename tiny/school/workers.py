"""Worker processes that fill shared memory with lessons, so that the learner never waits for them.

They are forked before any GPU is touched.
"""

from __future__ import annotations

import mmap
import multiprocessing as mp
import queue
import traceback

import cv2
import numpy as np

from tiny.school.lessons import Teacher, fill_lesson
from tiny.school.script import arrays, num_bytes

# Lessons that travel together.
CHUNK = 8


class LessonWorkers:
    """Worker processes and the slots of shared memory between them and the learner.

    The memory is anonymous: no limit of /dev/shm applies.

    Attributes:
        slots: The arrays of each slot, for CHUNK lessons.
    """

    def __init__(self, teacher: Teacher, seed: int, workers: int, slots: int) -> None:
        context = mp.get_context("fork")
        size = num_bytes(teacher.layout, CHUNK)
        self._memory = [mmap.mmap(-1, size) for _ in range(slots)]
        self.slots = [arrays(memory, teacher.layout, CHUNK) for memory in self._memory]
        self._free = context.Queue()
        self._full = context.Queue()

        self._processes = []
        for worker in range(workers):
            worker_seed = np.random.SeedSequence([seed, worker])
            process = context.Process(target=self._work, args=(teacher, worker_seed), daemon=True)
            process.start()
            self._processes.append(process)
        for slot in range(slots):
            self._free.put(slot)

    def _work(self, teacher: Teacher, seed: np.random.SeedSequence) -> None:
        cv2.setNumThreads(0)
        rng = np.random.default_rng(seed)
        try:
            while True:
                slot = self._free.get()
                for row in range(CHUNK):
                    fill_lesson(self.slots[slot], row, rng, teacher)
                self._full.put(slot)
        except BaseException:
            traceback.print_exc()
            raise

    def take(self) -> int:
        """Return a filled slot; give it back with `free`.

        Raises:
            RuntimeError: All workers have died.
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
        """Give a slot back to the workers."""
        self._free.put(slot)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
