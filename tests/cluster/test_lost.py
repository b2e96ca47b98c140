"""Which errors of Ray mean a lost process, and what is said and counted."""

from __future__ import annotations

import pytest
from ray import exceptions

from cluster.lost import Deaths, as_own_error, cause, is_lost

LOST_ERRORS = [
    exceptions.ActorDiedError(),
    exceptions.ActorUnavailableError("no connection", None),
    exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."),
    exceptions.NodeDiedError("node 5"),
    exceptions.WorkerCrashedError(),
    exceptions.LocalRayletDiedError(),
    exceptions.ObjectLostError("00", None, ""),
    exceptions.OwnerDiedError("00", None, ""),
    exceptions.ObjectFetchTimedOutError("00", None, ""),
]


def task_error(error: Exception, trace: str = "") -> exceptions.RayTaskError:
    return exceptions.RayTaskError("f", trace or f"Traceback\n{error!r}", error)


@pytest.mark.parametrize("error", LOST_ERRORS, ids=lambda error: type(error).__name__)
def test_a_process_that_is_gone_is_lost(error: Exception) -> None:
    assert is_lost(error)
    assert cause(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        exceptions.GetTimeoutError("slow"),
        exceptions.TaskCancelledError(),
        # The task lives, and would raise it again: what it needs is lost.
        task_error(exceptions.OwnerDiedError("00", None, "")).as_instanceof_cause(),
        task_error(ValueError("wrong")).as_instanceof_cause(),
        exceptions.ActorDiedError(task_error(ValueError("wrong path"))),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_process_that_lives_or_ended_by_its_own_error_is_not_lost(error: Exception) -> None:
    assert not is_lost(error)


def test_a_users_mistake_in_a_constructor_stays_one() -> None:
    frames = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n'
    mistake = task_error(ValueError("x"), f"{frames}ValueError: policy.path=/x: no such folder")
    found = as_own_error(exceptions.ActorDiedError(mistake))
    assert type(found) is ValueError
    assert str(found) == "policy.path=/x: no such folder"

    handled = f"{frames}ValueError: x\n\nDuring handling, another error:\n\n{frames}KeyError: 3"
    other = exceptions.ActorDiedError(task_error(KeyError(3), handled))
    assert as_own_error(other) is other
    died = exceptions.ActorDiedError()
    assert as_own_error(died) is died


def test_a_memory_kill_says_its_remedy() -> None:
    assert "fewer workers" in cause(exceptions.OutOfMemoryError("the node running low on memory"))


def test_deaths_are_said_and_counted_once() -> None:
    said: list[str] = []
    deaths = Deaths(said.append)
    deaths.add("rollout", "0 (pid 7 on n1)", "its node died", "rollout 2 starts")
    deaths.add("rollout", "1 (pid 8 on n1)", "its node died", "rollout 3 starts")
    deaths.add("reward", "0 (pid 9 on n1)", "it hung", "reward 1 starts")
    assert said[0] == ("rollout 0 (pid 7 on n1) is lost: its node died; rollout 2 starts")
    assert deaths.metrics() == {"deaths/rollout": 2.0, "deaths/reward": 1.0}
    assert deaths.metrics() == {}
    assert deaths.total == {"rollout": 2, "reward": 1}
