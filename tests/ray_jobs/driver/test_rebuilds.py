"""The checkpoint to go on from, the name of a run's history, and the bound of rebuilds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actors.learner_pool import LearnerLost
from configs.load import load
from configs.schema import ClusterConfig
from ray_jobs.driver.rebuilds import Rebuilds, history_of, newest_start, origin_of
from ray_jobs.record import checkpoint
from ray_jobs.record.run_folder import RunFolder

LOST = LearnerLost("rank 1 (pid 7 on node a)", "while it learned: killed")


def nothing(folder: Path) -> None:
    """Write no files of a learner."""


def saved(checkpoints: Path, step: int, origin: str = "") -> Path:
    return checkpoint.save(checkpoints, step, nothing, {"origin": origin})


def test_the_newest_whole_checkpoint_is_next(tmp_path: Path) -> None:
    assert newest_start(tmp_path, None) is None
    first = saved(tmp_path, 2)
    assert newest_start(tmp_path, None) == first
    second = saved(tmp_path, 4)
    assert newest_start(tmp_path, first) == second
    # Pruned since the run began with it.
    shutil.rmtree(first)
    assert newest_start(tmp_path, first) == second


def test_the_checkpoint_of_another_run_is_next_until_an_own_one_is_newer(tmp_path: Path) -> None:
    foreign = saved(tmp_path / "other", 4)
    own = tmp_path / "own"
    assert newest_start(own, foreign) == foreign
    saved(own, 4)
    assert newest_start(own, foreign) == foreign
    newer = saved(own, 5)
    assert newest_start(own, foreign) == newer


def test_a_history_keeps_its_name_in_its_own_checkpoints(tmp_path: Path) -> None:
    cfg = load(["revseg_tiny"])
    origin = origin_of(cfg, tmp_path, None)
    assert origin_of(cfg, tmp_path, saved(tmp_path, 2, origin)) == origin
    # The same checkpoint in another run begins another history.
    assert origin_of(cfg, tmp_path / "another", saved(tmp_path, 2, origin)) != origin
    # Those of older releases have no name for it.
    nameless = saved(tmp_path, 3)
    assert origin_of(cfg, tmp_path, nameless) not in ("", origin)


@pytest.mark.parametrize(
    "setting", ["seed=5", "learner.lr=1e-3", "train.steps=7", "data.length=long"]
)
def test_a_history_has_its_settings(setting: str) -> None:
    cfg = load(["revseg_tiny"])
    assert history_of(cfg, "a") != history_of(cfg, "b")
    assert history_of(load(["revseg_tiny", setting]), "a") != history_of(cfg, "a")
    # What neither decides on episodes nor on weights is free.
    free = load(["revseg_tiny", "rollout.workers=3", "train.checkpoint_every=9", "name=x"])
    assert history_of(free, "a") == history_of(cfg, "a")


def rebuilds(folder: Path, **settings: object) -> Rebuilds:
    cfg = ClusterConfig()
    for name, value in settings.items():
        setattr(cfg, name, value)
    return Rebuilds(cfg, RunFolder.open(folder, ""))


def test_rebuilds_without_progress_are_bounded(tmp_path: Path) -> None:
    deaths = rebuilds(tmp_path, max_rebuilds=2)
    assert deaths.allow(LOST, None).endswith("the initial policy (1 of 2 times without progress)")
    assert "(2 of 2 times" in deaths.allow(LOST, None)
    with pytest.raises(RuntimeError) as error:
        deaths.allow(LOST, None)
    for part in (str(LOST), "started anew 2 times", "cluster.max_rebuilds", "start again"):
        assert part in str(error.value)


def test_a_step_or_a_checkpoint_is_progress(tmp_path: Path) -> None:
    deaths = rebuilds(tmp_path, max_rebuilds=1)
    deaths.allow(LOST, None)
    deaths.record.write_step(1, {}, {})
    deaths.allow(LOST, None)
    deaths.allow(LOST, saved(tmp_path / "checkpoints", 1))
    with pytest.raises(RuntimeError):
        deaths.allow(LOST, tmp_path / "checkpoints" / "step_1")


def test_engines_in_the_ranks_process_group_need_a_new_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cluster.weight_backend=nccl .* start again"):
        rebuilds(tmp_path, weight_backend="nccl").allow(LOST, None)
