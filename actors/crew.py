"""The actors of one kind: start, replace, let rest, close.

Every worker has a number, and no number is used twice. A loss is reported by number, so a worker
is replaced once, however often its loss is noticed (`cluster.lost` says what a loss is). Workers
that still start join when they are up. Their tasks are the business of `actors.pool`.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import ray

from actors.stealing import least_loaded
from cluster.lost import LOST, as_own_error, is_lost
from cluster.refs import Handle, Ref, get, results
from cluster.watch import Watch

# Class of the actors.
A = TypeVar("A")

# Workers in a row that may be lost while they start.
MAX_STARTS = 4

# Seconds after which a waiting crew looks for what does not wake it: workers that another thread
# has started, one lost worker among many that are called.
LOOK_S = 0.25


class CrewClosed(RuntimeError):
    """The crew was closed while its workers had tasks: nobody waits for their results."""


class Crew(ABC, Generic[A]):
    """Actors of class A.

    A subclass defines how a worker starts, and which workers have tasks.

    Attributes:
        kind: what the workers are, in messages and metrics.
        workers: running actors by their number.
        seats: place of each worker in the plan of resources; a replacement inherits one.
        deaths: number of lost and replaced workers.
    """

    kind: ClassVar[str] = "worker"

    def __init__(self, workers: int, watch: Watch | None = None) -> None:
        """Start the workers.

        Args:
            watch: told of every worker that starts or is lost.
        """
        self.watch = watch or Watch()
        self.workers: dict[int, Handle[A]] = {}
        self.seats: dict[int, int] = {}
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
        # Workers that got a task since the last call of `rest`, and those that rest.
        self._used: set[int] = set()
        self._resting: set[int] = set()
        self._is_closed = False
        # One thread may play ahead while another publishes weights and collects rewards.
        self._lock = threading.RLock()
        self.scale(workers)

    @abstractmethod
    def start(self, number: int) -> Handle[A]:
        """Start the worker of this number."""

    @abstractmethod
    def busy(self) -> set[int]:
        """Return the numbers of the workers that have tasks."""

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
            needed = self._used | self.busy()
            self._resting.update(number for number in self.up() if number not in needed)
            self._used = set()

    def _take_worker(self, load: Mapping[int, int], most: float) -> int | None:
        """Return the worker with the least tasks, to get one more; None if all have `most`.

        Args:
            load: tasks of each worker that has any.
        """
        with self._lock:
            number = least_loaded(self.awake(), load)
            if number is None or load.get(number):
                self._wake()
            if number is None or load.get(number, 0) >= most:
                return None
            self._used.add(number)
            return number

    def _wake(self) -> None:
        """Let a resting worker join, if there is one."""
        if self._resting:
            self._expect(self._resting.pop())

    def ready(self, least: int | None = None) -> None:
        """Wait until so many workers are up; None: all. Raises the error of a failed start."""
        while len(self.up()) < min(least or math.inf, len(self.workers)):
            self.settle(LOOK_S)

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
            CrewClosed: the actor was ended with all others.
            RuntimeError: MAX_STARTS actors in a row were lost while they started.
        """
        if not isinstance(error, ray.exceptions.GetTimeoutError) and not is_lost(error):
            raise as_own_error(error)
        with self._lock:
            if self._is_closed:
                raise CrewClosed("closed by another thread") from error
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

        None stands for a process of somebody else, which this crew cannot replace.
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
