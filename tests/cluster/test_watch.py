"""The bookkeeping of the watch: which actor hangs, from given answers and times."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from typing import Any

import pytest

from cluster.autopsy import busy_threads
from cluster.beat import Answer, beating, own_stacks, patient, waits_for_others
from cluster.watch import Limits, Seen, Watched, hang_of, hung, seen
from core.pulse import Pulse, pulse

LIMITS = Limits(hang_s=60.0, start_s=600.0)
NOW = 1000.0


def actor(
    pulse: Pulse | None = None,
    *,
    silence: float = 0.0,
    waits: bool = False,
    kind: str = "rollout",
    number: int = 0,
) -> Watched:
    """An actor whose last answer was this pulse, and its silence since."""
    handle: Any = None
    asked = NOW - silence if silence else None
    answer = None if pulse is None else Answer(pulse, waits)
    return Watched(handle, kind, number, kind == "learner", asked, None, answer)


def rank(number: int, quiet_s: float, *, silence: float = 0.0, waits: bool = False) -> Watched:
    pulse = Pulse("learn", 100.0, quiet_s)
    return actor(pulse, silence=silence, waits=waits, kind="learner", number=number)


def blamed(actors: list[Watched]) -> list[int]:
    return [actor.number for actor, _ in hung(actors, NOW, LIMITS)]


@pytest.mark.parametrize(
    ("watched", "says"),
    [
        (actor(Pulse(), silence=50.0), "no answer for 50 s, last seen idle"),
        (actor(Pulse("score", 9.0, 1.0), silence=50.0), "no answer for 50 s, last seen in score"),
        (actor(Pulse("play_group", 70.0, 49.0)), "no progress in play_group for 49 s"),
        (actor(Pulse("take", 90.0, 80.0, 20.0)), "no progress in take for 80 s"),
        (actor(Pulse("save", 999.0, 700.0, math.inf)), "no progress in save for 700 s"),
        (actor(silence=601.0), "not up 601 s after its start"),
    ],
)
def test_a_hang(watched: Watched, says: str) -> None:
    assert (hang_of(watched, NOW, LIMITS) or "").startswith(says)


@pytest.mark.parametrize(
    "watched",
    [
        actor(Pulse(), silence=30.0),
        actor(Pulse("play_group", 9000.0, 30.0)),
        # Idle since an hour.
        actor(Pulse("", 0.0, 3600.0)),
        # Loading or writing a model, or starting.
        actor(Pulse("take", 90.0, 60.0, 20.0)),
        actor(Pulse("save", 500.0, 500.0, math.inf)),
        actor(silence=500.0),
    ],
)
def test_no_hang(watched: Watched) -> None:
    assert hang_of(watched, NOW, LIMITS) is None


def test_a_start_with_a_stopped_process_hangs() -> None:
    starting = actor(silence=60.0)
    starting.stopped = frozenset({7})
    assert hang_of(starting, NOW, LIMITS) is None
    starting.stuck = frozenset({7})
    assert hang_of(starting, NOW, LIMITS) == "process 7 is stopped while it starts"


def test_a_hang_is_found_and_printed_before_hang_s_has_passed() -> None:
    latest = LIMITS.quiet_s + 2 * LIMITS.every_s
    assert latest <= 0.9 * LIMITS.hang_s


def test_ranks_that_wait_for_another_one_are_not_to_blame() -> None:
    """Stopped; stuck outside the collective operation; computing; all stuck in it."""
    waiting = rank(0, 55.0, waits=True)
    assert blamed([waiting, rank(1, 50.0, silence=52.0)]) == [1]
    assert blamed([waiting, rank(1, 30.0, silence=20.0)]) == []
    # On a GPU ranks wait outside Python, so both look alike. One does not answer.
    assert blamed([rank(0, 55.0), rank(1, 50.0, silence=52.0)]) == [1]
    assert blamed([waiting, rank(1, 55.0)]) == [1]
    assert blamed([waiting, rank(1, 5.0)]) == []
    assert blamed([waiting, rank(1, 55.0, waits=True)]) == [0, 1]


def test_other_actors_are_judged_alone() -> None:
    both = [actor(Pulse("score", 60.0, 50.0)), actor(Pulse(), silence=55.0, number=1)]
    assert blamed(both) == [0, 1]


@pytest.mark.parametrize(
    ("watched", "doing", "seconds"),
    [
        (actor(silence=5.0), "starts", 5.0),
        (actor(Pulse()), "idle", 0.0),
        (actor(Pulse("score", 7.0)), "score", 7.0),
        (actor(Pulse("score", 7.0), silence=30.0), "score, no answer for 30 s", 7.0),
        (rank(1, 3.0, waits=True), "learn, waits for the other ranks", 100.0),
    ],
)
def test_what_an_actor_does_in_words(watched: Watched, doing: str, seconds: float) -> None:
    assert seen(watched, NOW, LIMITS) == Seen(watched.kind, watched.name, doing, seconds, None)


class Counter:
    """An actor class with a method of each sort."""

    def count(self) -> Pulse:
        """Return the pulse while it counts."""
        return pulse()

    @patient
    def load(self) -> Pulse:
        return pulse()

    async def wait(self) -> Pulse:
        return pulse()


def test_methods_of_actors_count_as_work() -> None:
    counter = beating(Counter)()
    assert counter.count().work == "count"
    assert counter.load().patience_s == math.inf
    assert asyncio.run(counter.wait()).work == "wait"
    assert pulse().work == ""
    assert type(counter).__name__ == "Counter"
    answer = counter.beat()
    assert (answer.pulse, answer.waits) == (Pulse(), False)
    assert answer.usage is not None
    assert answer.usage.pid == os.getpid()


def test_the_stack_of_a_collective_operation_is_known() -> None:
    code = compile("def wait(event):\n    event.wait()", "/x/torch/distributed/c10d.py", "exec")
    found: dict[str, Any] = {}
    exec(code, found)
    event = threading.Event()
    thread = threading.Thread(target=found["wait"], args=(event,), name="rank-0")
    thread.start()
    try:
        assert waits_for_others()
        assert "Thread rank-0" in own_stacks()
    finally:
        event.set()
        thread.join()
    assert not waits_for_others()


def test_of_a_dump_only_threads_at_work_are_shown() -> None:
    dump = """Process 7: ray::RewardActor.score
Python v3.11

Thread 7 (idle): "MainThread"
    main_loop (ray/_private/worker.py:975)
Thread 8 (active): "Dummy-1"
    score (actors/reward.py:75)
    counted (cluster/beat.py:104)
Thread 9 (idle): "pool"
    wait (threading.py:331)
    _worker (concurrent/futures/thread.py:81)
"""
    shown = busy_threads(dump)
    assert shown.splitlines()[0] == 'Thread 8 (active): "Dummy-1"'
    assert "score (actors/reward.py:75)" in shown
    assert "MainThread" not in shown
    assert "pool" not in shown
    assert "main_loop" in busy_threads(dump.replace("actors/", "ray/").replace("cluster/", "ray/"))
