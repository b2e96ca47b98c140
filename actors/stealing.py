"""Which work an idle worker takes from a straggler, at the end of a round of tasks.

Arithmetic only; `actors.pool` starts the second attempt, and the first result counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

# A flight is late after so many times the longest one that has ended.
LATE = 2.0


@dataclass(frozen=True)
class Underway:
    """A task in the hands of a worker.

    Attributes:
        worker: number of the worker.
        seconds: time since it was handed out.
        doubled: whether another worker has it as well.
    """

    worker: int
    seconds: float
    doubled: bool = False


def least_loaded(workers: Collection[int], load: Mapping[int, int]) -> int | None:
    """Return the first of the workers with the least tasks; None without workers.

    Args:
        load: tasks of each worker that has any.
    """
    for worker in workers:
        # Of a thousand workers most are idle, or none is.
        if not load.get(worker):
            return worker
    return min(workers, key=load.__getitem__, default=None)


def theft(
    flights: Sequence[Underway],
    workers: Collection[int],
    batch: int,
    longest_s: float,
) -> tuple[int, int] | None:
    """Return the index of a flight to repeat, and the least-loaded worker to repeat it.

    Only a worker with room in its batch takes work. It takes what waits behind a full batch of
    another worker, or what is late: over LATE times the longest flight so far, as behind a worker
    that hangs. Of several the last one handed out goes first, from the worker with the most.

    Args:
        flights: in the order in which they were handed out.
        workers: the workers that are up.
        batch: tasks that a worker works on at once; more wait in its queue.
        longest_s: seconds of the longest flight that has ended; infinite before the first.

    Returns:
        None if no worker has room, or nothing is worth repeating.
    """
    load = Counter(flight.worker for flight in flights)
    thief = least_loaded(workers, load)
    if thief is None or load[thief] >= batch:
        return None

    found: list[int] = []
    place: Counter[int] = Counter()
    for index, flight in enumerate(flights):
        place[flight.worker] += 1
        waits = place[flight.worker] > batch
        late = flight.seconds > LATE * longest_s
        if flight.worker != thief and not flight.doubled and (waits or late):
            found.append(index)
    if not found:
        return None
    straggler = max(found, key=lambda index: (load[flights[index].worker], index))
    return straggler, thief
