"""The driver's side of all actors of one kind: start, hand out tasks, retry, replace, close.

Every worker has a number, and no number is used twice. A loss is reported by number, so a worker
is replaced once, however often its loss is noticed (`cluster.lost` says what a loss is). Tasks go
to workers that are up; those that still start join when they are.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import ray

from actors.stealing import Underway, least_loaded, theft
from cluster.lost import LOST, as_own_error, is_lost
from cluster.refs import Handle, Ref, get, results
from cluster.watch import Watch


class PoolClosed(RuntimeError):
    """The pool was closed while it had tasks: nobody waits for their results."""


# Class of the actors, a task, and its result.
A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")

# Workers that a task may cost. All tasks in the hands of a lost worker are charged, so this is
# more than a task at fault needs.
MAX_ATTEMPTS = 4
# Workers in a row that may be lost while they start.
MAX_STARTS = 4

# Seconds after which a waiting pool looks for what does not wake it: workers that another thread
# has started, stragglers, one lost worker among many that are called.
LOOK_S = 0.25
# Seconds after which it asks for tasks again when there were none for now.
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


class Pool(ABC, Generic[A, T, R]):
    """Actors of class A. They turn tasks T into results R.

    A subclass defines how a worker starts, how it is sent a task, and the end of a task after
    `attempts` lost workers.

    Attributes:
        kind: what the workers are, in messages and metrics.
        workers: running actors by their number.
        seats: place of each worker in the plan of resources; a replacement inherits one.
        deaths: number of lost and replaced workers.
        timeout_s: longest wait of `wait_for`; a slower worker is taken for lost.
    """

    kind: ClassVar[str] = "worker"

    def __init__(
        self,
        workers: int,
        *,
        attempts: int = MAX_ATTEMPTS,
        timeout_s: float = math.inf,
        watch: Watch | None = None,
    ) -> None:
        """Start the workers.

        Args:
            watch: told of every worker that starts or is lost.
        """
        self.watch = watch or Watch()
        self.workers: dict[int, Handle[A]] = {}
        self.seats: dict[int, int] = {}
        self.attempts = attempts
        self.timeout_s = timeout_s
        self.deaths = 0
        self._numbers = itertools.count()
        # Start-up calls of workers that are not up yet, with their numbers.
        self._joining: dict[Ref[Any], int] = {}
        # Of each worker: a call that returns once its constructor has run, and its place among
        # those that were started in a row because the one before was lost while it started.
        self._constructed: dict[int, Ref[Any]] = {}
        self._tries: dict[int, int] = {}
        # Workers that were ended on purpose; their tasks go on without a lost attempt.
        self._let_go: set[int] = set()
        self._submitted: dict[Ref[R], Flight[T, R]] = {}
        # Tasks under way of each `run`.
        self._rounds: list[dict[Ref[R], Flight[T, R]]] = []
        # Workers that got a task since the last call of `rest`, and those that rest.
        self._used: set[int] = set()
        self._resting: set[int] = set()
        # When flights were last looked at for stragglers.
        self._stole_s = 0.0
        self._is_closed = False
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

    def joins(self, number: int, answer: Any = None) -> Ref[Any] | None:
        """Return a call that a starting worker has to answer before it gets tasks, or None.

        Args:
            answer: answer to the last of these calls; None for the first.
        """
        return None

    def has_room(self) -> bool:
        """Return whether a lost worker may be replaced at once."""
        return True

    def up(self) -> list[int]:
        """Return the numbers of the workers that have started."""
        with self._lock:
            starting = set(self._joining.values())
            return [number for number in self.workers if number not in starting]

    def awake(self) -> list[int]:
        """Return the numbers of the workers that get tasks: those that are up and do not rest."""
        with self._lock:
            return [number for number in self.up() if number not in self._resting]

    def rest(self) -> None:
        """Let those workers rest that got no task since the last call and have none.

        A resting worker is up, but joins anew (`joins`) before it gets a task. It is woken when
        there are more tasks than the others have hands for.
        """
        with self._lock:
            if not self._used:
                return
            needed = self._used
            for flights in (self._submitted, *self._rounds):
                needed.update(flight.worker for flight in list(flights.values()))
            self._resting.update(number for number in self.up() if number not in needed)
            self._used = set()

    def _wake(self) -> None:
        """Let a resting worker join, if there is one."""
        if self._resting:
            self._expect(self._resting.pop())

    def ready(self, least: int | None = None) -> None:
        """Wait until so many workers are up; None: all. Raises the error of a failed start."""
        while len(self.up()) < min(least or math.inf, len(self.workers)):
            self.settle(LOOK_S)

    def scale(self, workers: int) -> None:
        """Start or kill actors until this many run.

        The others repeat the tasks of a killed actor.
        """
        with self._lock:
            while len(self.workers) < workers:
                self._start_next()
            for number in list(self.workers)[workers:]:
                self._let_go.add(number)
                self._end(number)

    def replace(self, number: int, error: Exception) -> int:
        """Start another actor in the place of a lost one, unless it was replaced already.

        Returns:
            Attempts that the loss costs each task of the actor: 1, or 0 if `scale` ended it.

        Raises:
            The error itself: it is no loss, or an error of the actor's constructor.
            PoolClosed: the actor was ended with all others.
            RuntimeError: MAX_STARTS actors in a row were lost while they started.
        """
        if not isinstance(error, ray.exceptions.GetTimeoutError) and not is_lost(error):
            raise as_own_error(error)
        with self._lock:
            if self._is_closed:
                raise PoolClosed("closed by another thread") from error
            if number not in self.workers:
                return 0 if number in self._let_go else 1
            tries = 1 if self._came_up(number) else self._tries[number] + 1
            self.deaths += 1
            lost = self._end(number)
            if tries > MAX_STARTS:
                why = self.watch.lost(lost, self.kind, number, error, "no other one starts")
                raise RuntimeError(
                    f"{MAX_STARTS} {self.kind} actors in a row were lost while they started; "
                    f"the last one: {why}"
                ) from error
            then = "no other one has room now"
            if self.has_room():
                then = f"{self.kind} {self._start_next(tries)} starts"
            self.watch.lost(lost, self.kind, number, error, then)
            return 1

    def wait_for_all(self, calls: Mapping[Ref[Any], int | None]) -> None:
        """Wait for calls, each of the worker of this number; lost workers are replaced.

        None stands for a process of somebody else, which this pool cannot replace.
        """
        waiting = dict(calls)
        while waiting:
            # One look at all of them: with a thousand workers a look at each would be slow. The
            # first error ends the wait a moment later, since others may wait for the process that
            # failed.
            done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=LOOK_S)
            try:
                results(done)
            except LOST:
                # Somebody is lost: who is it?
                for ref in done:
                    self._check(ref, waiting[ref])
            for ref in done:
                del waiting[ref]

    def _check(self, ref: Ref[Any], number: int | None) -> None:
        """Replace the worker of a call if it was lost. Raises the errors of `wait_for_all`."""
        try:
            results([ref])
        except LOST as error:
            if number is None:
                raise
            self.replace(number, error)

    def close(self) -> None:
        """End all actors. Whoever waits for one of their results in another thread is told so."""
        with self._lock:
            self._is_closed = True
            for number in list(self.workers):
                self._end(number)

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
            PoolClosed: another thread has closed the pool.
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
                raise PoolClosed("closed by another thread")
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

    def settle(self, timeout: float = 0) -> None:
        """Let workers join that have started, and replace those that could not.

        Args:
            timeout: longest wait for the first of them, in seconds.

        Raises:
            The errors of `replace`.
        """
        joining = list(self._joining)
        if not joining:
            time.sleep(timeout)
            return
        enough = 1 if timeout else len(joining)
        done, _ = ray.wait(joining, num_returns=enough, timeout=timeout)
        for ref in done:
            self._settle_one(ref)

    def _settle_one(self, ref: Ref[Any]) -> None:
        with self._lock:
            number = self._joining.get(ref)
            if number is None:
                return
            try:
                answer = get(ref)
            except LOST as error:
                self.replace(number, error)
                return
            del self._joining[ref]
            self._expect(number, answer)

    def _expect(self, number: int, answer: Any = None) -> None:
        """Note the next call that a starting worker has to answer; without one it is up."""
        call = self.joins(number, answer)
        if call is not None:
            self._joining[call] = number

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

    def free_seat(self) -> int:
        """Return the first seat that no worker has."""
        taken = {self.seats[running] for running in self.workers}
        return min(set(range(len(taken) + 1)) - taken)

    def _start_next(self, tries: int = 1) -> int:
        """Start a worker; return its number.

        Args:
            tries: its place among those that were started in a row.
        """
        number = next(self._numbers)
        self.seats[number] = self.free_seat()
        worker = self.start(number)
        self.workers[number] = worker
        self._constructed[number] = worker.constructed()
        self._tries[number] = tries
        self.watch.add(worker, self.kind, number)
        self._expect(number)
        return number

    def _end(self, number: int) -> Handle[A]:
        """End a worker; return its handle."""
        worker = self.workers.pop(number)
        self._resting.discard(number)
        for ref in [ref for ref, joining in self._joining.items() if joining == number]:
            del self._joining[ref]
        self.watch.drop(worker)
        worker.kill()
        return worker

    def _came_up(self, number: int) -> bool:
        """Return whether a lost worker had started."""
        if number in self._joining.values():
            return False
        done, _ = ray.wait([self._constructed[number]], timeout=0)
        try:
            return bool(done) and get(done[0])
        except LOST:
            return False

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
            number = least_loaded(self.awake(), load)
            if number is None or load[number]:
                self._wake()
            if number is None or load[number] >= most:
                return None
            load[number] += 1
            self._used.add(number)
            started = time.monotonic()
            ref = self.send(self.workers[number], task)
            return Flight(task, number, attempt, started, ref)
