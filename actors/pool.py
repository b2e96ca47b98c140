"""The driver's side of all actors of one kind: hand out tasks, retry, repeat what stragglers have.

How the actors start, and are replaced, is in `actors.crew`. Tasks go to workers that are up; the
tasks of a lost worker go to others.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import ray

from actors.crew import LOOK_S, Crew, CrewClosed
from actors.stealing import Underway, theft
from cluster.lost import LOST
from cluster.refs import Handle, Ref, get
from cluster.watch import Watch

# Class of the actors, a task, and its result.
A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")

# Workers that a task may cost. All tasks in the hands of a lost worker are charged, so this is
# more than a task at fault needs.
MAX_ATTEMPTS = 4

# Seconds after which a waiting pool asks for tasks again when there were none for now.
PAUSE_S = 0.02


@dataclass(frozen=True)
class Flight(Generic[T, R]):
    """A task in the hands of a worker.

    Attributes:
        attempt: 1 for the first attempt at this task.
        started: time of this attempt on the monotonic clock, in seconds.
        twin: the same task in the hands of another worker.
    """

    task: T
    worker: int
    attempt: int
    started: float
    ref: Ref[R]
    twin: Ref[R] | None = None


class Pool(Crew[A], Generic[A, T, R]):
    """Actors of class A that turn tasks T into results R.

    A subclass defines how a worker starts, how it is sent a task, and the end of a task after
    `attempts` lost workers.

    Attributes:
        timeout_s: longest wait of `wait_for`; a slower worker is taken for lost.
    """

    def __init__(
        self,
        workers: int,
        *,
        attempts: int = MAX_ATTEMPTS,
        timeout_s: float = math.inf,
        watch: Watch | None = None,
    ) -> None:
        """Start the workers. Arguments as of `Crew`."""
        self.attempts = attempts
        self.timeout_s = timeout_s
        self._submitted: dict[Ref[R], Flight[T, R]] = {}
        # Tasks under way of each `run`.
        self._rounds: list[dict[Ref[R], Flight[T, R]]] = []
        # When flights were last looked at for stragglers.
        self._stole_s = 0.0
        super().__init__(workers, watch)

    @abstractmethod
    def send(self, worker: Handle[A], task: T) -> Ref[R]:
        """Start a task on a worker; return a reference to its result."""

    @abstractmethod
    def give_up(self, task: T, error: Exception) -> R:
        """Raise for a task that lost its worker at every attempt, or return a result for it."""

    def busy(self) -> set[int]:
        with self._lock:
            workers: set[int] = set()
            for flights in (self._submitted, *self._rounds):
                workers.update(flight.worker for flight in list(flights.values()))
            return workers

    def run(
        self,
        tasks: Iterable[T | None],
        in_flight: int = 1,
        batch: int = 0,
    ) -> Iterator[tuple[T, R]]:
        """Work through tasks; yield each with its result as results arrive, in any order.

        Tasks are taken from the iterable one ahead of need. The task of a lost worker goes first.

        Args:
            tasks: None is no task: there is none for now, and the next look asks again.
            in_flight: most of these tasks for one worker at a time.
            batch: tasks that a worker works on at once. In the end an idle worker repeats what a
                straggler has left (`actors.stealing`): the first result counts, and the other
                attempt is cancelled. 0: nothing is repeated.

        Raises:
            Errors of the tasks, and of `give_up`.
            CrewClosed: another thread has closed the pool.
        """
        flying: dict[Ref[R], Flight[T, R]] = {}
        with self._lock:
            self._rounds.append(flying)
        try:
            yield from self._work(iter(tasks), flying, in_flight, batch)
        finally:
            with self._lock:
                self._rounds = [flights for flights in self._rounds if flights is not flying]

    def _work(
        self,
        fresh: Iterator[T | None],
        flying: dict[Ref[R], Flight[T, R]],
        in_flight: int,
        batch: int,
    ) -> Iterator[tuple[T, R]]:
        """Work through tasks, as `run`; `flying` are those under way."""
        # Tasks to hand out before fresh ones, with the number of their next attempt.
        waiting: deque[tuple[T, int]] = deque()
        # Flights that have ended.
        ended: deque[Ref[R]] = deque()
        longest_s = 0.0
        while True:
            if self._is_closed:
                raise CrewClosed("closed by another thread")
            is_paused = self._fill(flying, waiting, fresh, in_flight)
            if not flying and not waiting and not is_paused:
                return

            # One result at a time, so that its worker gets the next task at once.
            if not ended:
                if not waiting:
                    self._steal_now_and_then(flying, batch, longest_s)
                ended.extend(self._ended(flying, is_paused))
            ref = ended.popleft() if ended else None
            # A twin may have been cancelled meanwhile.
            if ref is None or ref not in flying:
                continue
            done = flying.pop(ref)
            for result in self._results_of(ref, done, flying, waiting):
                self._cancel_twin(done, flying)
                longest_s = max(longest_s, time.monotonic() - done.started)
                yield done.task, result

    def _results_of(
        self,
        ref: Ref[R],
        done: Flight[T, R],
        flying: Mapping[Ref[R], Flight[T, R]],
        waiting: deque[tuple[T, int]],
    ) -> list[R]:
        """Return the result of a flight that has ended; none if its task is to be repeated."""
        try:
            return [get(ref)]
        except LOST as error:
            cost = self.replace(done.worker, error)
            if self._is_repeated(done, cost, flying, waiting):
                return []
            return [self.give_up(done.task, error)]

    def hand_out(self, task: T, attempt: int = 1) -> Flight[T, R]:
        """Send one task to the worker with the fewest tasks of this kind; return at once."""
        with self._lock:
            load = Counter(flight.worker for flight in self._submitted.values())
            flight = self._send(task, attempt, load, math.inf)
            assert flight is not None, "without a limit there is always room"
            self._submitted[flight.ref] = flight
            return flight

    def is_done(self, flight: Flight[T, R]) -> bool:
        """Return whether a task from `hand_out` has ended, well or not."""
        done, _ = ray.wait([flight.ref], timeout=0)
        return bool(done)

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
            attempt = flight.attempt + self.replace(flight.worker, error)
            if attempt > self.attempts:
                return self.give_up(flight.task, error)
        finally:
            with self._lock:
                self._submitted.pop(flight.ref, None)
        return self.wait_for(self.hand_out(flight.task, attempt))

    def _fill(
        self,
        flying: dict[Ref[R], Flight[T, R]],
        waiting: deque[tuple[T, int]],
        fresh: Iterator[T | None],
        in_flight: int,
    ) -> bool:
        """Hand out waiting tasks, then fresh ones, while a worker has room.

        Returns:
            Whether there are no fresh ones for now.
        """
        load = Counter(flight.worker for flight in flying.values())
        while True:
            if not waiting:
                for task in itertools.islice(fresh, 1):
                    if task is None:
                        return True
                    waiting.append((task, 1))
            if not waiting:
                return False
            task, attempt = waiting[0]
            flight = self._send(task, attempt, load, in_flight)
            if flight is None:
                return False
            waiting.popleft()
            flying[flight.ref] = flight

    def _is_repeated(
        self,
        lost: Flight[T, R],
        cost: int,
        flying: Mapping[Ref[R], Flight[T, R]],
        waiting: deque[tuple[T, int]],
    ) -> bool:
        """Return whether the task of a lost worker is with another one, or goes first now."""
        if lost.twin in flying:
            return True
        attempt = lost.attempt + cost
        if attempt > self.attempts:
            return False
        waiting.appendleft((lost.task, attempt))
        return True

    def _cancel_twin(
        self,
        done: Flight[T, R],
        flying: dict[Ref[R], Flight[T, R]],
    ) -> None:
        """Cancel the other attempt at a finished task, if there is one."""
        if done.twin is not None and done.twin in flying:
            ray.cancel(flying.pop(done.twin).ref)

    def _ended(self, flying: Collection[Ref[R]], is_paused: bool) -> list[Ref[R]]:
        """Wait for results; return those that are there.

        None are if only workers have joined, or nothing happened.
        """
        timeout = PAUSE_S if is_paused else LOOK_S
        refs = [*flying, *self._joining]
        if not refs:
            # There is no task, or all workers are gone, and another thread starts new ones when
            # there is room.
            time.sleep(timeout)
            return []
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if done and len(refs) > 1:
            # A look costs as much as there are flights, so one look finds all.
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        ended = [ref for ref in done if ref in flying]
        if len(ended) < len(done) or not done:
            self.settle()
        return ended

    def _steal_now_and_then(
        self, flying: dict[Ref[R], Flight[T, R]], batch: int, longest_s: float
    ) -> None:
        """As `_steal` with a batch; only every LOOK_S, since it looks at all flights."""
        if batch and time.monotonic() - self._stole_s > LOOK_S:
            self._steal(flying, batch, longest_s or math.inf)
            self._stole_s = time.monotonic()

    def _steal(
        self,
        flying: dict[Ref[R], Flight[T, R]],
        batch: int,
        longest_s: float,
    ) -> None:
        """Let idle workers repeat what stragglers have left."""
        while True:
            now = time.monotonic()
            flights = list(flying.values())
            underway = []
            for flight in flights:
                doubled = flight.twin in flying
                underway.append(Underway(flight.worker, now - flight.started, doubled))
            with self._lock:
                found = theft(underway, self.awake(), batch, longest_s)
                if found is None:
                    return
                index, thief = found
                first = flights[index]
                self._used.add(thief)
                ref = self.send(self.workers[thief], first.task)
            second = Flight(first.task, thief, first.attempt, now, ref, twin=first.ref)
            flying[first.ref] = replace(first, twin=second.ref)
            flying[second.ref] = second

    def _send(
        self,
        task: T,
        attempt: int,
        load: Counter[int],
        most: float,
    ) -> Flight[T, R] | None:
        """Send a task to the worker with the least load; None if all have `most`.

        Args:
            load: tasks of each worker; this one is added.
        """
        with self._lock:
            number = self._take_worker(load, most)
            if number is None:
                return None
            load[number] += 1
            started = time.monotonic()
            ref = self.send(self.workers[number], task)
            return Flight(task, number, attempt, started, ref)
