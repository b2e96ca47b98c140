"""Placement: what is asked of a cluster, and the one error when it is not there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
import ray

from cluster.environment import cpu_env, torch_extensions_dir
from cluster.start import actor_options, check_gpus, device_of, gpus_asked, joined
from configs.schema import Config


def gpu_config(**changes) -> Config:
    cfg = Config()
    cfg.cluster.use_gpu = "yes"
    cfg.rollout.workers = 3
    cfg.rollout.tensor_parallel = 2
    cfg.learner.world_size = 4
    for name, value in changes.items():
        setattr(cfg.cluster, name, value)
    return cfg


def test_gpus_are_added_up_unless_engine_and_learner_share_them():
    assert gpus_asked(gpu_config()) == 3 * 2 + 4
    assert gpus_asked(gpu_config(weight_backend="ipc")) == 6


def test_too_few_gpus_is_one_clear_error(ray_env):
    with pytest.raises(
        ValueError, match=r"rollout.workers=3 x .* ask for 10 GPUs, the cluster has 0"
    ):
        check_gpus(gpu_config())


def test_actors_on_cpu_reserve_nothing_and_carry_their_environment(ray_env):
    cfg = Config()
    for kind in ("rollout", "learner", "reward", "segmenter"):
        options = actor_options(cfg, kind)
        assert options["num_cpus"] == 0
        assert "num_gpus" not in options
        assert options["runtime_env"]["env_vars"]["DS_ACCELERATOR"] == "cpu"
    assert device_of(cfg) == "cpu"


def test_actors_on_gpu_get_their_share(ray_env):
    assert actor_options(gpu_config(), "rollout")["num_gpus"] == 2
    assert actor_options(gpu_config(), "learner")["num_gpus"] == 1
    assert actor_options(gpu_config(weight_backend="ipc"), "learner")["num_gpus"] == 0.5
    assert 0 < actor_options(gpu_config(), "reward")["num_gpus"] < 1


def test_gpu_weight_backends_without_a_gpu_are_one_clear_error(ray_env):
    for backend in ("nccl", "ipc"):
        with pytest.raises(
            ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"
        ):
            check_gpus(gpu_config(use_gpu="no", weight_backend=backend))
    check_gpus(gpu_config(use_gpu="no"))


def test_ipc_needs_a_learner_rank_for_each_engine(ray_env):
    cfg = gpu_config(weight_backend="ipc")
    with pytest.raises(
        ValueError, match="rollout.workers=3, rollout.tensor_parallel=2 and learner.world_size=4"
    ):
        check_gpus(cfg)
    cfg.rollout.tensor_parallel = 1
    with pytest.raises(ValueError, match="ask for 4 GPUs, the cluster has 0"):
        check_gpus(cfg)


PAIRS = """
import ray
from cluster.start import actor_options, check_gpus
from configs.schema import Config

class Seat:
    def gpus(self):
        return ray.get_gpu_ids()

cfg = Config()
cfg.cluster.use_gpu, cfg.cluster.weight_backend = "yes", "ipc"
cfg.rollout.workers, cfg.learner.world_size = 2, 3
ray.init(address="local", num_cpus=8, num_gpus=3, include_dashboard=False, log_to_driver=False)
check_gpus(cfg)
order = [("rollout", 0), ("rollout", 1), ("learner", 0), ("learner", 1), ("learner", 2)]  # as a run starts them
seats = [ray.remote(Seat).options(**actor_options(cfg, *who)).remote() for who in order]
print(ray.get([seat.gpus.remote() for seat in seats], timeout=60))
"""


def test_with_ipc_actor_and_rank_of_one_number_share_a_gpu():
    """On a Ray of its own that is told of three GPUs: where Ray puts actors does not need them to be there."""
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PAIRS], capture_output=True, text=True, env=env, timeout=180
    )
    assert done.returncode == 0, done.stderr
    first, second, *ranks = ast.literal_eval(done.stdout.splitlines()[-1])
    assert [first, second] == ranks[:2]
    assert sorted(ranks) == [[0], [1], [2]]


def test_a_connection_that_was_there_before_stays(ray_env):
    with joined(Config()):
        assert ray.is_initialized()
    assert ray.is_initialized()
    with pytest.raises(ValueError, match="the cluster has 0"), joined(gpu_config()):
        pass
    assert ray.is_initialized()


JOIN = """
import ray
from cluster.start import joined
from configs.schema import Config

cfg = Config()
with joined(cfg):
    print(ray.is_initialized())
print(ray.is_initialized())
cfg.cluster.use_gpu, cfg.learner.world_size = "yes", 1000
try:
    with joined(cfg):
        print("joined")
except ValueError:
    print(ray.is_initialized())
"""


def test_who_joined_leaves_also_after_an_error():
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", JOIN], capture_output=True, text=True, env=env, timeout=180
    )
    assert done.returncode == 0 and done.stdout.split() == ["True", "False", "False"], done.stderr


def test_compiled_operators_have_one_fixed_place(monkeypatch):
    assert cpu_env()["TORCH_EXTENSIONS_DIR"] == torch_extensions_dir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "elsewhere")
    assert torch_extensions_dir() == "elsewhere"
