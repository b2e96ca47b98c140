"""Evaluations beside training: their order, queue, failures and end. The evaluator is scripted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.driver.beside import Beside
from ray_jobs.driver.results import Evaluation

# Longest wait for another thread.
LONG_S = 20.0


class Evaluator:
    """Measures a step once it is allowed to.

    Attributes:
        begun: steps of all attempts.
        failing: attempts that fail, by step.
    """

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.failing: dict[int, int] = {}
        self._changed = threading.Condition()
        self._allowed: set[int] = set()
        self._is_closed = False

    def measure(self, step: int, folder: Path) -> Evaluation:
        with self._changed:
            self.begun.append(step)
            self._changed.notify_all()
            self._changed.wait_for(lambda: step in self._allowed or self._is_closed, LONG_S)
            if self._is_closed:
                raise RuntimeError("its actors are gone")
        if self.failing.get(step, 0) > 0:
            self.failing[step] -= 1
            raise RuntimeError("a long story\nno memory")
        return Evaluation(())

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def allow(self, *steps: int) -> None:
        with self._changed:
            self._allowed.update(steps)
            self._changed.notify_all()

    def wait_for(self, step: int) -> None:
        """Wait until the evaluation of a step has begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: step in self.begun, LONG_S)


class Scene:
    """Evaluations of the checkpoints in `step_N`, and what was said about them."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.evaluator = Evaluator()
        self.beside = Beside(self.evaluator, self.said.append)

    def want(self, *steps: int) -> None:
        for step in steps:
            self.beside.want(step, Path(f"step_{step}"))

    def taken(self) -> list[tuple[int, bool]]:
        """Return what has ended: the step, and whether it has figures."""
        return [(done.step, done.evaluation is not None) for done in self.beside.take()]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.beside.close()


def test_nobody_waits_for_an_evaluation_under_way(scene: Scene) -> None:
    scene.want(2)
    scene.evaluator.wait_for(2)
    assert scene.taken() == []
    assert scene.beside.steps == [2]


def test_a_result_is_taken_once(scene: Scene) -> None:
    scene.want(2)
    scene.evaluator.allow(2)
    scene.beside.finish()
    assert scene.beside.steps == [2]
    assert scene.taken() == [(2, True)]
    assert scene.taken() == []
    assert scene.beside.steps == []


def test_the_newest_waits_and_the_one_that_it_replaces_is_said(scene: Scene) -> None:
    scene.want(2)
    scene.evaluator.wait_for(2)
    scene.want(4, 6)
    assert scene.beside.steps == [2, 6]
    scene.evaluator.allow(2, 4, 6)
    scene.beside.finish()
    assert scene.taken() == [(2, True), (6, True)]
    assert scene.evaluator.begun == [2, 6]
    assert scene.said == ["step 4 is not evaluated: that of step 2 still runs, and step 6 is newer"]


def test_a_step_is_evaluated_once(scene: Scene) -> None:
    scene.want(2, 2)
    scene.evaluator.allow(2)
    scene.beside.finish()
    scene.want(2)
    scene.beside.finish()
    assert scene.evaluator.begun == [2]


def test_the_thread_comes_back_after_it_has_ended(scene: Scene) -> None:
    scene.evaluator.allow(2, 4)
    scene.want(2)
    scene.beside.finish()
    scene.want(4)
    scene.beside.finish()
    assert scene.taken() == [(2, True), (4, True)]


def test_a_failed_evaluation_is_tried_once_more(scene: Scene) -> None:
    scene.evaluator.failing = {2: 1}
    scene.evaluator.allow(2)
    scene.want(2)
    scene.beside.finish()
    assert scene.taken() == [(2, True)]
    assert scene.said == ["the evaluation of step 2 failed (no memory): once more"]


def test_an_evaluation_that_fails_twice_is_left_out(scene: Scene) -> None:
    scene.evaluator.failing = {2: 2}
    scene.evaluator.allow(2, 4)
    scene.want(2, 4)
    scene.beside.finish()
    assert scene.taken() == [(2, False), (4, True)]
    assert scene.said[-1] == (
        "the evaluation of step 2 failed (no memory): the training goes on without it"
    )


def test_the_end_gives_up_what_is_under_way(scene: Scene) -> None:
    scene.want(2)
    scene.evaluator.wait_for(2)
    scene.want(4)
    scene.beside.close()
    scene.want(6)
    scene.beside.finish()
    assert scene.evaluator.begun == [2]
    assert scene.said == [
        f"the evaluation of step {step} is given up; the next start does it" for step in (2, 4)
    ]
    assert scene.taken() == [(2, False)]


def test_an_end_without_any_says_nothing(scene: Scene) -> None:
    scene.evaluator.allow(2)
    scene.want(2)
    scene.beside.finish()
    scene.beside.close()
    scene.beside.close()
    assert scene.said == []
