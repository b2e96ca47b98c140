"""A run that evaluates beside its steps, next to one whose steps wait: same weights and figures.

The run beside is killed during its first evaluation, and goes on to its end.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.files import read_lines
from ray_jobs.record import checkpoint
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.conftest import Small, run_job, told
from tests.ray_jobs.test_resume import RAY_AGENTS, left, logged, name_of, started, wait_until

EVERY = 3
LAST = 8
# Step 8 is not measured.
MEASURED = (3, 6)


def settings(small: Small, name: str, *more: str) -> list[str]:
    return [
        *small.settings(name),
        f"train.steps={LAST}",
        f"train.eval_every={EVERY}",
        "train.checkpoint_every=0",
        "train.keep_checkpoints=1",
        "train.eval_before=false",
        "tracking.mlflow_uri=",
        *more,
    ]


@dataclass(frozen=True)
class Ended:
    """A run to its end, with its output."""

    run: RunFolder
    output: str

    @property
    def weights(self) -> str:
        summary = self.run.summary()
        assert summary is not None
        return str(summary["weights_sha256"])

    @property
    def best(self) -> str:
        return os.readlink(self.run.path / "best")

    @property
    def watched(self) -> dict[str, float]:
        state = checkpoint.read_state(self.run.checkpoints / f"step_{LAST}")
        return dict(state["watched"])

    def of_evaluation(self, step: int, file: str) -> Path:
        return self.run.evaluation / f"step_{step}" / "valid" / file

    def episodes(self, step: int) -> list[dict[str, Any]]:
        """Return the episodes of an evaluation, without the seconds that they took."""
        lines = read_lines(self.of_evaluation(step, "episodes.jsonl"))
        return [{key: each[key] for key in each if key != "seconds"} for each in lines]


def ended(small: Small, name: str, *more: str) -> Ended:
    done = run_job("train", *settings(small, name, *more))
    assert done.returncode == 0, told(done)
    return Ended(small.run(name), done.stdout)


@pytest.fixture(scope="module")
def in_place(small: Small) -> Ended:
    return ended(small, "in_place")


@dataclass(frozen=True)
class Killed:
    """A run whose driver was killed during an evaluation.

    Attributes:
        workers: its other processes.
        left: those that had not ended in time.
        was_measured: whether the evaluation had its figures.
    """

    workers: int
    left: list[psutil.Process]
    was_measured: bool


@pytest.fixture(scope="module")
def killed(small: Small) -> Killed:
    wanted = settings(small, "beside", "train.eval_beside=true", "cluster.max_restarts=0")
    run = small.run("beside")
    with started(*wanted) as process:
        wait_until(lambda: bool(logged_after_the_start(run)), process)
        [driver] = psutil.Process(process.pid).children()
        family = driver.children(recursive=True)
        driver.kill()
        process.wait()
    workers = [each for each in family if not name_of(each).startswith(RAY_AGENTS)]
    summary = run.evaluation / f"step_{EVERY}" / "valid" / "summary.json"
    return Killed(len(workers), left(workers, timeout_s=90.0), summary.exists())


def logged_after_the_start(run: RunFolder) -> list[int]:
    """Return the groups of the step behind the one at whose end the evaluation begins."""
    return logged(run, EVERY + 2) if (run.path / "groups").is_dir() else []


@pytest.fixture(scope="module")
def beside(small: Small, killed: Killed) -> Ended:
    return ended(small, "beside", "train.eval_beside=true")


def steps_between(output: str, begin: str, end: str) -> list[int]:
    """Return the steps that were recorded between two lines of the output."""
    lines = output.splitlines()
    first = next(number for number, line in enumerate(lines) if begin in line)
    last = next(number for number, line in enumerate(lines) if end in line)
    found = [re.match(rf"step +(\d+)/{LAST} ", line) for line in lines[first:last]]
    return [int(match.group(1)) for match in found if match]


@pytest.mark.slow
def test_a_driver_killed_during_an_evaluation_leaves_nothing(killed: Killed) -> None:
    assert killed.workers, "no worker process was found"
    assert killed.left == []
    assert not killed.was_measured


@pytest.mark.slow
def test_steps_are_recorded_while_an_evaluation_runs(beside: Ended) -> None:
    during = steps_between(beside.output, f"step 6/{LAST}", "step 6, valid, beside")
    assert len(during) > 1, beside.output


@pytest.mark.slow
def test_where_steps_wait_none_is_recorded(in_place: Ended) -> None:
    during = steps_between(in_place.output, f"step 3/{LAST}", "step 3, valid: J&F")
    assert during == [3]


@pytest.mark.slow
def test_the_weights_are_the_same(in_place: Ended, beside: Ended) -> None:
    assert beside.weights == in_place.weights


@pytest.mark.slow
@pytest.mark.parametrize("step", MEASURED)
def test_the_figures_are_the_same(in_place: Ended, beside: Ended, step: int) -> None:
    for file in ("summary.json", "per_expression.csv"):
        own = beside.of_evaluation(step, file).read_text()
        assert own == in_place.of_evaluation(step, file).read_text()
    assert beside.episodes(step) == in_place.episodes(step)


@pytest.mark.slow
def test_best_is_the_same(in_place: Ended, beside: Ended) -> None:
    assert beside.watched == in_place.watched
    assert set(beside.watched) == {str(step) for step in MEASURED}
    assert beside.best == in_place.best


@pytest.mark.slow
def test_the_replay_page_has_its_best_and_worst(in_place: Ended, beside: Ended) -> None:
    kept = [file.name for file in (beside.run.path / "replay").rglob("eval_*_valid*")]
    assert len(kept) == len(MEASURED)
    assert sorted(kept) == sorted(
        file.name for file in (in_place.run.path / "replay").rglob("eval_*_valid*")
    )
