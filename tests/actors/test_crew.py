"""Workers of a pool of small real actors: starts, losses, replacements, rest."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.crew import MAX_STARTS
from cluster.lost import LOST, Deaths
from cluster.refs import Ref, results, start_actor
from cluster.watch import Limits, Watch
from tests.actors.doublers import (
    Doubler,
    DoublerPool,
    FragilePool,
    Job,
    JoiningPool,
)


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
