"""Checkpoints beside training, with ranks that are threads of this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from actors.learner_pool import LearnerLost
from actors.save_marks import mark_of
from ray_jobs.driver.saving import Saving
from ray_jobs.record import checkpoint


class Ranks:
    """Two ranks that write when they are let go, as `LearnerPool` has them."""

    def __init__(self) -> None:
        self.ranks = (0, 1)
        self.go = threading.Event()
        self.problem = ""
        self.lost = False

    def save(self, folder: Path, beside: bool) -> None:
        assert beside
        for rank in self.ranks:
            threading.Thread(target=self._write, args=(folder, rank)).start()

    def check(self) -> None:
        if self.lost:
            raise LearnerLost("rank 1", "while it wrote a checkpoint")

    def _write(self, folder: Path, rank: int) -> None:
        self.go.wait(30)
        if self.lost and rank == 1:
            return
        (folder / f"rank_{rank}.safetensors").write_bytes(b"weights")
        mark_of(folder, rank).write_text(self.problem)


@pytest.fixture
def ranks() -> Any:
    return Ranks()


@pytest.fixture
def saving(tmp_path: Path, said: list[str]) -> Saving:
    return Saving(tmp_path / "checkpoints", said.append)


@pytest.fixture
def said() -> list[str]:
    return []


def names(saving: Saving) -> list[str]:
    """Return the names of all folders, whole or not, without process numbers."""
    return sorted(path.name.split(".")[-1] for path in saving.checkpoints.iterdir())


def test_a_checkpoint_appears_when_all_ranks_are_done(saving: Saving, ranks: Any) -> None:
    whole: list[Path] = []
    saving.start(ranks, 3, {"used": 5}, whole.append)
    saving.settle()
    assert (names(saving), whole) == (["writing"], [])
    assert checkpoint.latest(saving.checkpoints) is None

    ranks.go.set()
    saving.finish(ranks)
    [folder] = whole
    assert checkpoint.read_state(folder) == {"step": 3, "used": 5}
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "rank_0.safetensors",
        "rank_1.safetensors",
        "state.json",
    ]
    assert checkpoint.damage(folder) == ""


def test_the_next_checkpoint_waits_for_the_one_on_its_way(saving: Saving, ranks: Any) -> None:
    whole: list[str] = []
    for step in (1, 2, 2):
        threading.Timer(0.05, ranks.go.set).start()
        saving.start(ranks, step, {}, lambda folder: whole.append(folder.name))
    saving.finish(ranks)
    assert whole == ["step_1", "step_2", "step_2"]
    assert names(saving) == ["step_1", "step_2"]


def test_a_failed_write_is_said_and_the_next_one_works(
    saving: Saving, ranks: Any, said: list[str]
) -> None:
    whole: list[Path] = []
    ranks.go.set()
    ranks.problem = "rank 0: no space left"
    saving.start(ranks, 1, {}, whole.append)
    saving.finish(ranks)
    [line] = said
    assert "step_1 could not be written" in line
    assert line.endswith("rank 0: no space left; tried again at the next one")
    assert (names(saving), whole) == ([], [])

    ranks.problem = ""
    saving.start(ranks, 2, {}, whole.append)
    saving.finish(ranks)
    assert names(saving) == ["step_2"]


def test_a_rank_that_dies_while_it_writes_is_noticed(
    saving: Saving, ranks: Any, said: list[str]
) -> None:
    whole: list[Path] = []
    saving.start(ranks, 1, {}, whole.append)
    ranks.lost = True
    ranks.go.set()
    with pytest.raises(LearnerLost):
        saving.finish(ranks)
    saving.abandon()
    assert (names(saving), whole) == ([], [])
    # Its death is said by whoever starts the ranks anew.
    assert said == []
