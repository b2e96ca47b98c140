"""The driver's side of all actors of one kind: start, hand out tasks, retry, replace, close.

Every worker has a number, and no number is used twice. A loss is reported by number, so a worker
is replaced once, however often its loss is noticed.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import ray

from cluster.refs import Handle, Ref, get

# Class of the actors, a task, and its result.
A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")

# Errors of Ray that mean: the process that worked on this task is gone.
LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
)


@dataclass(frozen=True)
class Flight(Generic[T, R]):
    """A task in the hands of a worker.

    Attributes:
        attempt: 1 for the first attempt at this task.
        started: time of this attempt on the monotonic clock, in seconds.
    """

    task: T
    worker: int
    attempt: int
    started: float
    ref: Ref[R]


class Pool(ABC, Generic[A, T, R]):
    """Actors of class A. They turn tasks T into results R.

    A subclass defines how a worker starts, how it is sent a task, and the end of a task after
    `attempts` lost workers.

    Attributes:
        workers: running actors by their number.
        seats: place of each worker in the plan of resources; a replacement inherits one.
        deaths: number of lost and replaced workers.
        timeout_s: longest wait of `wait_for`; a slower worker is taken for lost.
    """

    def __init__(self, workers: int, *, attempts: int, timeout_s: float = math.inf) -> None:
        self.workers: dict[int, Handle[A]] = {}
        self.seats: dict[int, int] = {}
        self.attempts = attempts
        self.timeout_s = timeout_s
        self.deaths = 0
        self._numbers = itertools.count()
        self._submitted: dict[Ref[R], Flight[T, R]] = {}
        # One thread may play ahead while another publishes weights and collects rewards.
        self._lock = threading.RLock()
        self.scale(workers)

    @abstractmethod
    def start(self, number: int) -> Handle[A]:
        """Start the worker of this number."""

    @abstractmethod
    def send(self, worker: Handle[A], task: T) -> Ref[R]:
        """Start a task on a worker; return a reference to its result."""

    @abstractmethod
    def give_up(self, task: T, error: Exception) -> R:
        """Raise for a task that lost its worker at every attempt, or return a result for it."""

    def scale(self, workers: int) -> None:
        """Start or kill actors until this many run.

        The others repeat the tasks of a killed actor.
        """
        with self._lock:
            while len(self.workers) < workers:
                self._start_next()
            for number in list(self.workers)[workers:]:
                self.workers.pop(number).kill()

    def replace(self, number: int) -> None:
        """Start another actor in the place of a lost one, unless it was replaced already."""
        with self._lock:
            if number not in self.workers:
                return
            self.deaths += 1
            self.workers.pop(number).kill()
            self._start_next()

    def close(self) -> None:
        """End all actors."""
        with self._lock:
            for worker in self.workers.values():
                worker.kill()
            self.workers.clear()

    def run(self, tasks: Iterable[T], in_flight: int = 1) -> Iterator[tuple[T, R]]:
        """Work through tasks; yield each with its result as results arrive, in any order.

        Tasks are taken from the iterable one ahead of need. The task of a lost worker goes first.

        Args:
            in_flight: most of these tasks for one worker at a time.

        Raises:
            Errors of the tasks, and of `give_up`.
        """
        fresh = iter(tasks)
        # Tasks to hand out before fresh ones, with the number of their next attempt.
        waiting: deque[tuple[T, int]] = deque()
        flying: dict[Ref[R], Flight[T, R]] = {}
        while True:
            self._fill(flying, waiting, fresh, in_flight)
            if not flying:
                return

            # One result at a time, so that its worker gets the next task at once.
            [ref], _ = ray.wait(list(flying), num_returns=1)
            done = flying.pop(ref)
            try:
                result = get(ref)
            except LOST as error:
                self.replace(done.worker)
                if done.attempt < self.attempts:
                    waiting.appendleft((done.task, done.attempt + 1))
                    continue
                result = self.give_up(done.task, error)
            yield done.task, result

    def hand_out(self, task: T, attempt: int = 1) -> Flight[T, R]:
        """Send one task to the worker with the fewest tasks of this kind; return at once."""
        with self._lock:
            flight = self._send(task, attempt, self._submitted.values(), math.inf)
            assert flight is not None, "without a limit there is always room"
            self._submitted[flight.ref] = flight
            return flight

    def wait_for(self, flight: Flight[T, R]) -> R:
        """Wait for the result of a task from `hand_out`, at most `timeout_s` from its start.

        A time-out or the loss of the worker costs an attempt, and the worker is replaced.

        Raises:
            Errors of the task, and of `give_up`.
        """
        left = flight.started + self.timeout_s - time.monotonic()
        timeout = None if math.isinf(left) else max(left, 1.0)
        try:
            return get(flight.ref, timeout)
        except (*LOST, ray.exceptions.GetTimeoutError) as error:
            self.replace(flight.worker)
            if flight.attempt >= self.attempts:
                return self.give_up(flight.task, error)
        finally:
            with self._lock:
                self._submitted.pop(flight.ref, None)
        return self.wait_for(self.hand_out(flight.task, flight.attempt + 1))

    def _fill(
        self,
        flying: dict[Ref[R], Flight[T, R]],
        waiting: deque[tuple[T, int]],
        fresh: Iterator[T],
        in_flight: int,
    ) -> None:
        """Hand out waiting tasks, then fresh ones, while a worker has room."""
        while True:
            if not waiting:
                for task in itertools.islice(fresh, 1):
                    waiting.append((task, 1))
            if not waiting:
                return
            task, attempt = waiting[0]
            flight = self._send(task, attempt, flying.values(), in_flight)
            if flight is None:
                return
            waiting.popleft()
            flying[flight.ref] = flight

    def _start_next(self) -> None:
        number = next(self._numbers)
        taken = {self.seats[running] for running in self.workers}
        free = set(range(len(taken) + 1)) - taken
        self.seats[number] = min(free)
        self.workers[number] = self.start(number)

    def _send(
        self, task: T, attempt: int, flights: Collection[Flight[T, R]], most: float
    ) -> Flight[T, R] | None:
        """Send a task to the worker with the fewest of these flights; None if all have `most`."""
        with self._lock:
            load = Counter(flight.worker for flight in flights)
            number = min(self.workers, key=lambda worker: load[worker])
            if load[number] >= most:
                return None
            started = time.monotonic()
            ref = self.send(self.workers[number], task)
            return Flight(task, number, attempt, started, ref)
