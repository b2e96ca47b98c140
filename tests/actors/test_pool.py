"""The pool over small real actors: order, load, repeated tasks, time-outs."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.crew import CrewClosed
from cluster.beat import Beat
from cluster.refs import Parcel, Ref, get, results, start_actor
from tests.actors.doublers import (
    Doubler,
    DoublerPool,
    Job,
    SlowPool,
    Waiter,
)


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


def test_a_worker_gets_tasks_when_it_is_up(ray_env: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = SlowPool(gate)
    pool.ready(1)
    assert pool.up() == [0]
    by = [worker for _, (_, worker) in pool.run([Job(number) for number in range(4)])]
    assert by == [0] * 4
    gate.touch()
    pool.ready()
    assert pool.up() == [0, 1]
    by = [worker for _, (_, worker) in pool.run([Job(number) for number in range(4)])]
    assert set(by) == {0, 1}
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
    stopped = results([pool.workers[1].call(Doubler.start)])[0]
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
    with pytest.raises(CrewClosed):
        list(pool.run(jobs))
    with pytest.raises(CrewClosed):
        pool.wait_for(flight)
    closing.join()
    assert pool.deaths == 0
