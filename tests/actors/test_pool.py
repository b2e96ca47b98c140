"""The pool over small real actors: order, load, losses, replacements, time-outs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.pool import MAX_STARTS, Pool, PoolClosed
from cluster.beat import Beat
from cluster.lost import LOST, Deaths
from cluster.refs import Handle, Parcel, Ref, get, results, start_actor
from cluster.watch import Limits, Watch


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

    def start(self, seconds: float) -> int:
        """Take a while to come up; return the number of the process."""
        time.sleep(seconds)
        return os.getpid()

    def double(self, job: Job) -> tuple[int, int]:
        """Return the doubled number, and the number of this actor."""
        time.sleep(job.seconds)
        while job.gate and not Path(job.gate).exists():
            time.sleep(0.05)
        if job.number < 0:
            raise ValueError(f"negative: {job.number}")
        if job.deaths:
            marks = len(os.listdir(job.folder))
            if marks < job.deaths:
                (Path(job.folder) / str(marks)).touch()
                os._exit(1)
        return 2 * job.number, self.number


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
    """A pool whose second worker takes 2 s to start."""

    def joins(self, number: int, answer: int | None = None) -> Ref[int] | None:
        if answer is None:
            return self.workers[number].call(Doubler.start, 2.0 if number == 1 else 0.0)
        return None


class JoiningPool(DoublerPool):
    """A pool whose workers answer one call before they get tasks."""

    def joins(self, number: int, answer: int | None = None) -> Ref[int] | None:
        if answer is None:
            return self.workers[number].call(Doubler.start, 0.0)
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


@pytest.fixture
def pool(ray_env: dict[str, str]) -> Iterator[DoublerPool]:
    pool = DoublerPool(2, attempts=2)
    yield pool
    pool.close()


def test_every_task_comes_back_once_and_loads_are_even(pool: DoublerPool) -> None:
    jobs = [Job(number) for number in range(20)]
    done = list(pool.run(jobs, in_flight=3))
    assert sorted(job.number for job, _ in done) == list(range(20))
    for job, (doubled, _) in done:
        assert doubled == 2 * job.number
    assert {worker for _, (_, worker) in done} == {0, 1}


def test_tasks_are_pulled_one_ahead_of_need(pool: DoublerPool) -> None:
    pulled: list[int] = []

    def endless() -> Iterator[Job]:
        for number in range(1000):
            pulled.append(number)
            yield Job(number)

    running = pool.run(endless(), in_flight=2)
    next(running)
    assert len(pulled) <= 2 * 2 + 1
    del running
    assert list(pool.run([])) == []


def test_a_lost_worker_costs_an_attempt_and_is_replaced(pool: DoublerPool, tmp_path: Path) -> None:
    jobs = [Job(1), Job(2, deaths=1, folder=str(tmp_path)), Job(3)]
    done = {job.number: doubled for job, (doubled, _) in pool.run(jobs)}
    assert done == {1: 2, 2: 4, 3: 6}
    assert pool.deaths == 1
    assert pool.watch.deaths.metrics() == {"deaths/worker": 1.0}
    assert len(pool.workers) == 2
    assert max(pool.workers) == 2


def test_after_the_last_attempt_the_pool_gives_up(pool: DoublerPool, tmp_path: Path) -> None:
    [(_, result)] = pool.run([Job(5, deaths=9, folder=str(tmp_path))])
    assert result == (-1, -1)
    assert pool.deaths == 2
    with pytest.raises(RuntimeError, match="13 is unlucky"):
        list(pool.run([Job(13, deaths=99, folder=str(tmp_path))]))
    assert [doubled for _, (doubled, _) in pool.run([Job(6)])] == [12]


def test_errors_of_tasks_are_raised_and_cost_no_worker(pool: DoublerPool) -> None:
    with pytest.raises(ValueError, match="negative: -7"):
        list(pool.run([Job(-7)]))
    assert pool.deaths == 0


def test_single_tasks_go_to_the_least_loaded_worker(pool: DoublerPool) -> None:
    flights = [pool.hand_out(Job(number)) for number in range(4)]
    assert [flight.worker for flight in flights] == [0, 1, 0, 1]
    assert [pool.wait_for(flight)[0] for flight in flights] == [0, 2, 4, 6]


def test_a_worker_that_takes_too_long_is_replaced(pool: DoublerPool) -> None:
    pool.timeout_s = 1.0
    assert pool.wait_for(pool.hand_out(Job(5, seconds=60.0))) == (-1, -1)
    assert pool.deaths == 2


def test_a_lost_worker_with_many_tasks_in_hand_is_replaced_once(pool: DoublerPool) -> None:
    flights = [pool.hand_out(Job(number, seconds=0.1)) for number in range(12)]
    pool.workers[0].kill()
    assert [pool.wait_for(flight)[0] for flight in flights] == list(range(0, 24, 2))
    assert pool.deaths == 1
    assert sorted(pool.workers) == [1, 2]

    jobs = [Job(number, seconds=0.05) for number in range(24)]
    running = pool.run(jobs, in_flight=8)
    next(running)
    pool.workers[1].kill()
    assert len(list(running)) == 23
    assert pool.deaths == 2
    assert sorted(pool.workers) == [2, 3]


def test_lost_workers_among_those_that_are_called_are_replaced(pool: DoublerPool) -> None:
    calls: dict[Ref[Any], int | None] = {}
    for number, worker in pool.workers.items():
        calls[worker.call(Doubler.double, Job(number, seconds=0.5))] = number
    pool.workers[1].kill()
    pool.wait_for_all(calls)
    assert pool.deaths == 1
    assert sorted(pool.workers) == [0, 2]
    # All calls have ended.
    pool.workers[0].kill()
    pool.wait_for_all(dict.fromkeys(list(calls)[:1], 0))
    assert pool.deaths == 1
    pool.wait_for_all({})


def test_a_lost_process_of_somebody_else_is_an_error(pool: DoublerPool) -> None:
    other = start_actor(Doubler, {"num_cpus": 0}, 7)
    calls: dict[Ref[Any], int | None] = {other.call(Doubler.double, Job(1, seconds=60.0)): None}
    other.kill()
    with pytest.raises(LOST):
        pool.wait_for_all(calls)
    assert pool.deaths == 0


def test_an_error_ends_the_wait_for_those_that_hang(pool: DoublerPool) -> None:
    calls: dict[Ref[Any], int | None] = {
        pool.workers[0].call(Doubler.double, Job(1, gate="/nowhere")): 0,
        pool.workers[1].call(Doubler.double, Job(-7)): 1,
    }
    with pytest.raises(ValueError, match="negative: -7"):
        pool.wait_for_all(calls)
    assert pool.deaths == 0


def test_a_worker_that_is_lost_while_it_starts_is_started_again(
    ray_env: dict[str, str], tmp_path: Path
) -> None:
    said: list[str] = []
    pool = FragilePool(tmp_path, deaths=2, watch=Watch(Deaths(said.append)))
    pool.ready()
    assert pool.deaths == 2
    assert [line.partition(" (pid ")[0] for line in said] == ["worker 0", "worker 1"]
    assert said[1].endswith("killed or crashed; worker 2 starts")
    pool.close()

    pool = FragilePool(tmp_path, deaths=99, watch=Watch(Deaths(said.append)))
    with pytest.raises(RuntimeError, match=f"{MAX_STARTS} worker actors in a row were lost"):
        pool.ready()
    pool.close()


def test_a_constructors_own_error_is_raised_at_once(
    ray_env: dict[str, str], tmp_path: Path
) -> None:
    pool = FragilePool(tmp_path / "none", deaths=1)
    with pytest.raises(ValueError, match="no folder .*none$"):
        pool.ready()
    assert pool.deaths == 0
    pool.close()


def test_a_worker_that_hangs_is_named_with_its_stack_and_replaced(ray_env: dict[str, str]) -> None:
    said: list[str] = []
    pool = DoublerPool(2, watch=Watch(Deaths(said.append), Limits(hang_s=10.0)))
    # Until its constructor has run Ray may not know its process, and pid 0 is all of this session.
    results([worker.constructed() for worker in pool.workers.values()])
    pid = pool.workers[0].where().pid
    assert pid > 0
    flights = [pool.hand_out(Job(number, seconds=3.0)) for number in range(4)]
    # It is at work by now.
    time.sleep(1.0)
    os.kill(pid, signal.SIGSTOP)
    assert [pool.wait_for(flight)[0] for flight in flights] == [0, 2, 4, 6]
    hangs, stack, lost = said[:3]
    assert f"worker actor 0 (pid {pid} on " in hangs
    assert "hangs: no answer for " in hangs
    assert "double (" in stack
    assert lost.endswith("worker 2 starts")
    assert "it hung" in lost
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=30)
    pool.close()


def test_all_workers_tell_what_they_worked_on(pool: DoublerPool) -> None:
    pool.watch.ask_all(Beat.keep_spans, 60.0)
    jobs = [Job(number, seconds=0.05) for number in range(4)]
    assert len(list(pool.run(jobs))) == 4
    spans = pool.watch.ask_all(Beat.take_spans, 60.0)
    assert set(spans) == {"worker actor 0", "worker actor 1"}
    works = [span for each in spans.values() for span in each]
    assert [span.name for span in works] == ["double"] * 4
    for span in works:
        assert span.seconds >= 0.05
        assert abs(span.began - time.time()) < 60, "seconds since 1970"


def test_packed_arguments_arrive_as_they_are(pool: DoublerPool) -> None:
    worker = pool.workers[1]
    pool.watch.ask_all(Beat.keep_spans, 60.0)
    assert get(worker.call_packed(Doubler.double, Job(4))) == (8, 1)
    assert get(worker.call_packed(Doubler.double, job=Job(5))) == (10, 1)
    with pytest.raises(ValueError, match="negative: -7"):
        results([worker.call_packed(Doubler.double, Job(-7))])
    spans = pool.watch.ask_all(Beat.take_spans, 60.0)["worker actor 1"]
    assert [span.name for span in spans] == ["double"] * 3, "it is work like any other"

    patient = start_actor(Waiter, {"num_cpus": 0})
    shared = [Parcel(pickle.dumps((1, "a")))]
    assert get(patient.call_packed(Waiter.wait, 0.01, shared)) == [(1, "a")]
    patient.kill()


def test_the_number_of_workers_changes_at_any_time(pool: DoublerPool) -> None:
    jobs = [Job(number, seconds=0.05) for number in range(12)]
    done: list[tuple[int, int]] = []
    for job, (doubled, _) in pool.run(jobs):
        done.append((job.number, doubled))
        if len(done) == 1:
            pool.scale(3)
        if len(done) == 4:
            pool.scale(1)
    assert sorted(done) == [(number, 2 * number) for number in range(12)]
    [worker] = pool.workers.values()
    assert results([worker.call(Doubler.double, Job(4))])[0][0] == 8


def test_a_worker_gets_tasks_when_it_is_up(ray_env: dict[str, str]) -> None:
    pool = SlowPool(2, attempts=2)
    pool.ready(1)
    assert pool.up() == [0]
    by = [worker for _, (_, worker) in pool.run([Job(number) for number in range(4)])]
    assert by == [0] * 4
    pool.ready()
    assert pool.up() == [0, 1]
    by = [worker for _, (_, worker) in pool.run([Job(number) for number in range(4)])]
    assert set(by) == {0, 1}
    pool.close()


def test_workers_without_tasks_rest_until_there_are_many(ray_env: dict[str, str]) -> None:
    pool = JoiningPool(3, attempts=2)
    pool.ready()
    pool.rest()
    assert pool.awake() == [0, 1, 2], "nobody had a chance of a task"
    list(pool.run([Job(1)]))
    pool.rest()
    assert pool.awake() == [0]
    assert pool.up() == [0, 1, 2]

    jobs = [Job(number, seconds=0.3) for number in range(6)]
    by = [worker for _, (_, worker) in pool.run(jobs)]
    assert set(by) == {0, 1, 2}
    assert pool.awake() == [0, 1, 2]
    pool.close()


def test_a_worker_with_a_task_in_its_hands_does_not_rest(
    ray_env: dict[str, str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    pool = JoiningPool(2, attempts=2)
    pool.ready()
    done = pool.run([Job(1, gate=str(gate)), Job(2), Job(3)])
    assert next(done)[0].number == 2
    pool.rest()
    assert next(done)[0].number == 3
    pool.rest()
    assert pool.awake() == [0, 1], "the first one works, the second one has just worked"

    gate.touch()
    assert next(done)[0].number == 1
    list(pool.run([Job(4)]))
    pool.rest()
    assert pool.awake() == [0]
    pool.close()


def test_a_resting_worker_may_be_lost(ray_env: dict[str, str]) -> None:
    pool = JoiningPool(2, attempts=2)
    pool.ready()
    list(pool.run([Job(1)]))
    pool.rest()
    assert pool.awake() == [0]
    pool.workers[1].kill()
    jobs = [Job(number, seconds=0.2) for number in range(8)]
    done = list(pool.run(jobs))
    assert sorted(job.number for job, _ in done) == list(range(8))
    pool.ready()
    assert pool.up() == [0, 2], "it was replaced when it was woken"
    pool.close()


def test_a_worker_that_joins_takes_over_what_waits(pool: DoublerPool, tmp_path: Path) -> None:
    """Without fresh tasks a new worker repeats those behind a full batch of the others."""
    gate = tmp_path / "gate"
    # What waits begins its 2 s only after the gate has opened, and a repetition has them behind it.
    jobs = [Job(0), *[Job(number, seconds=2.0, gate=str(gate)) for number in range(1, 6)]]

    def open_when_all_are_up(constructed: Sequence[Ref[Any]]) -> None:
        results(constructed)
        # The loop looks for new workers every second.
        time.sleep(5.0)
        gate.touch()

    done: list[tuple[int, int]] = []
    for job, (_, worker) in pool.run(jobs, in_flight=3, batch=1):
        done.append((job.number, worker))
        if len(done) == 1:
            pool.scale(4)
            # Asked before they get tasks: these calls would wait behind the gate.
            constructed = [pool.workers[number].constructed() for number in (2, 3)]
            opening = threading.Thread(target=open_when_all_are_up, args=[constructed])
            opening.start()
    opening.join()
    assert sorted(number for number, _ in done) == list(range(6))
    assert {worker for _, worker in done} & {2, 3}


def test_the_work_of_a_worker_that_stands_still_is_repeated(pool: DoublerPool) -> None:
    stopped = results([pool.workers[1].call(Doubler.start, 0.0)])[0]
    jobs = [Job(number, seconds=0.1) for number in range(6)]
    done: list[tuple[int, int]] = []
    try:
        for job, (_, worker) in pool.run(jobs, in_flight=3, batch=2):
            if not done:
                os.kill(stopped, signal.SIGSTOP)
            done.append((job.number, worker))
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert sorted(number for number, _ in done) == list(range(6))
    assert pool.deaths == 0


def test_tasks_of_a_pool_that_another_thread_closes_come_to_an_end(pool: DoublerPool) -> None:
    flight = pool.hand_out(Job(0, seconds=60.0))
    jobs = [Job(number, seconds=60.0) for number in range(4)]
    closing = threading.Timer(0.5, pool.close)
    closing.start()
    with pytest.raises(PoolClosed):
        list(pool.run(jobs))
    with pytest.raises(PoolClosed):
        pool.wait_for(flight)
    closing.join()
    assert pool.deaths == 0
