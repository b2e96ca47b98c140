"""Joining a cluster, and leaving it as it was found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

from cluster.start import _init, joined
from configs.schema import Config


def test_a_connection_that_was_open_before_stays_open(ray_env: dict[str, str]) -> None:
    with joined(Config()) as placement:
        assert ray.is_initialized()
        assert placement.device == "cpu"
    assert ray.is_initialized()

    too_much = Config()
    too_much.cluster.use_gpu = "yes"
    with pytest.raises(ValueError, match="the cluster has 0 GPUs"), joined(too_much):
        pass
    assert ray.is_initialized()


JOIN = """
import psutil
import ray
from cluster.refs import get, start_actor
from cluster.start import joined
from configs.schema import Config

class Anything:
    pass

cfg = Config()
with joined(cfg) as placement:
    print(ray.is_initialized())
    get(start_actor(Anything, placement.options("reward", 0)).constructed())
    names = [each.name() for each in psutil.Process().children(recursive=True)]
    print(any(name.startswith("ray::Any") for name in names))
    print(any(name.startswith("ray::IDLE") for name in names))
print(ray.is_initialized())
cfg.cluster.use_gpu = "yes"
cfg.learner.world_size = 1000
try:
    with joined(cfg):
        print("joined")
except ValueError:
    print(ray.is_initialized())
"""


def test_a_head_of_its_own_starts_actors_alone_and_is_closed_also_after_an_error() -> None:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", JOIN], capture_output=True, text=True, env=env, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "False", "False", "False"], done.stderr


def test_a_slow_start_of_the_head_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Exception("The current node timed out during startup. This could happen because ...")
    outcomes: list[Exception | None] = [slow, slow, None]

    def init(**options: object) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    said: list[str] = []
    _init({}, said.append)
    assert not outcomes
    assert [line.rpartition(" ")[2] for line in said] == ["2", "3"]

    outcomes = [slow] * 3
    with pytest.raises(Exception, match="timed out during startup"):
        _init({}, said.append)
    outcomes = [ValueError("no such address")]
    with pytest.raises(ValueError, match="no such address"):
        _init({}, said.append)
