"""Small real actors and their pools, for the tests of crews and pools."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.pool import Pool
from cluster.refs import Handle, Ref, start_actor
from cluster.watch import Watch


@dataclass(frozen=True)
class Job:
    """A number to double. The first `deaths` attempts kill their actor, marked in a folder.

    With a gate it waits until that file is there.
    """

    number: int
    deaths: int = 0
    folder: str = ""
    seconds: float = 0.0
    gate: str = ""


class Doubler:
    """Doubles numbers, and knows its own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def start(self, gate: str = "") -> int:
        """Come up once the file is there, if one is named; return the number of the process."""
        _wait_for(gate)
        return os.getpid()

    def double(self, job: Job) -> tuple[int, int]:
        """Return the doubled number, and the number of this actor."""
        time.sleep(job.seconds)
        _wait_for(job.gate)
        if job.number < 0:
            raise ValueError(f"negative: {job.number}")
        if job.deaths:
            marks = len(os.listdir(job.folder))
            if marks < job.deaths:
                (Path(job.folder) / str(marks)).touch()
                os._exit(1)
        return 2 * job.number, self.number


def _wait_for(gate: str) -> None:
    while gate and not Path(gate).exists():
        time.sleep(0.05)


class Waiter:
    """An actor with coroutines."""

    async def wait(self, seconds: float, value: Any) -> Any:
        await asyncio.sleep(seconds)
        return value


class DoublerPool(Pool[Doubler, Job, tuple[int, int]]):
    def start(self, number: int) -> Handle[Doubler]:
        return start_actor(Doubler, {"num_cpus": 0}, number)

    def send(self, worker: Handle[Doubler], task: Job) -> Ref[tuple[int, int]]:
        return worker.call(Doubler.double, task)

    def give_up(self, task: Job, error: Exception) -> tuple[int, int]:
        if task.number == 13:
            raise RuntimeError(f"{task.number} is unlucky") from error
        return -1, -1


class SlowPool(DoublerPool):
    """A pool of two workers, of which the second is up only once a file is there."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)
        super().__init__(2, attempts=2)

    def joins(self, number: int, answer: int | None = None) -> Ref[int] | None:
        if answer is None:
            return self.workers[number].call(Doubler.start, self.gate if number == 1 else "")
        return None


class JoiningPool(DoublerPool):
    """A pool whose workers answer one call before they get tasks."""

    def joins(self, number: int, answer: int | None = None) -> Ref[int] | None:
        if answer is None:
            return self.workers[number].call(Doubler.start)
        return None


class Fragile(Doubler):
    """Its first `deaths` processes end in the constructor, marked in a folder."""

    def __init__(self, folder: Path, deaths: int) -> None:
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}")
        marks = len(os.listdir(folder))
        if marks < deaths:
            (folder / str(marks)).touch()
            os._exit(1)
        super().__init__(0)


class FragilePool(DoublerPool):
    def __init__(self, folder: Path, deaths: int, watch: Watch | None = None) -> None:
        self.folder = folder
        self.fragility = deaths
        super().__init__(1, watch=watch)

    def start(self, number: int) -> Handle[Doubler]:
        return start_actor(Fragile, {"num_cpus": 0}, self.folder, self.fragility)

    def joins(self, number: int, answer: bool | None = None) -> Ref[bool] | None:
        return self.workers[number].constructed() if answer is None else None
