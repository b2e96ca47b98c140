"""The number of engines that a user asks for, with a scripted pool on CPU."""

from __future__ import annotations

from typing import Any, cast

import pytest
import ray

from cluster.placement import Placement
from cluster.plan import Plan
from configs.schema import Config
from ray_jobs.driver import elastic
from ray_jobs.driver.elastic import Elastic


class Engines:
    """A pool whose engines are up at once."""

    def __init__(self, count: int) -> None:
        self.workers = list(range(count))

    def up(self) -> list[int]:
        return self.workers

    def settle(self) -> None:
        """Nobody starts."""

    def scale(self, workers: int) -> None:
        self.workers = list(range(workers))


class Display:
    def note(self, text: str) -> None:
        """Nobody reads it."""


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Elastic:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(elastic, "WATCH_S", 0.01)
    placement = Placement("cpu", {}, Plan("train"))
    return Elastic(Config(), placement, cast(Any, Display()))


def test_more_and_fewer(engines: Elastic) -> None:
    pool = Engines(1)
    engines.keep(cast(Any, pool))
    assert engines.want(3).startswith("workers: 1 -> 3; 2 start now")
    assert len(pool.workers) == 3
    assert engines.status() == "rollout engines: 3 up, 0 starting, 3 wanted"
    assert engines.want(1).startswith("workers: 3 -> 1; 2 end now")
    assert len(pool.workers) == 1
    engines.close()


def test_asked_before_the_engines_have_started(engines: Elastic) -> None:
    assert engines.want(2).startswith("workers=2: they start with the job")
    pool = Engines(1)
    engines.keep(cast(Any, pool))
    for _ in range(500):
        if len(pool.workers) == 2:
            break
        engines._ended.wait(0.01)
    assert len(pool.workers) == 2
    engines.close()


def test_impossible_numbers(engines: Elastic) -> None:
    with pytest.raises(ValueError, match="workers=0: must be at least 1"):
        engines.want(0)
    with pytest.raises(ValueError, match="workers=9: the cluster has 8 CPU cores"):
        engines.want(9)
    engines._cfg.cluster.weight_backend = "nccl"
    with pytest.raises(ValueError, match="weight_backend=nccl the number is fixed"):
        engines.want(2)
