"""Placement: what a run asks of a cluster, and the one error when the cluster lacks it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import Any

import pytest

from cluster.environment import cpu_env, torch_extensions_dir
from cluster.placement import Kind, decide, gpus_asked
from configs.schema import Config

KINDS: tuple[Kind, ...] = ("rollout", "learner", "reward", "segmenter", "judge")


def gpu_config(**cluster: Any) -> Config:
    """Three engines over two GPUs each, and four learner ranks."""
    cfg = Config()
    cfg.cluster.use_gpu = "yes"
    cfg.rollout.workers = 3
    cfg.rollout.tensor_parallel = 2
    cfg.learner.world_size = 4
    for name, value in cluster.items():
        setattr(cfg.cluster, name, value)
    return cfg


def test_gpus_are_added_up_unless_engine_and_learner_share_them() -> None:
    assert gpus_asked(gpu_config()) == 3 * 2 + 4
    assert gpus_asked(gpu_config(weight_backend="ipc")) == 6


def test_too_few_gpus_is_one_clear_error() -> None:
    with pytest.raises(
        ValueError, match=r"rollout.workers=3 x .* ask for 10 GPUs, the cluster has 0"
    ):
        decide(gpu_config(), gpus=0)


def test_auto_takes_the_gpus_of_the_cluster() -> None:
    assert decide(Config(), gpus=0).device == "cpu"
    assert decide(Config(), gpus=2).device == "cuda"
    with pytest.raises(ValueError, match="ask for 2 GPUs, the cluster has 1"):
        decide(Config(), gpus=1)
    without = Config()
    without.cluster.use_gpu = "no"
    assert decide(without, gpus=8).device == "cpu"


def test_actors_on_cpu_reserve_nothing_and_carry_their_environment() -> None:
    placement = decide(Config(), gpus=0)
    assert placement.device == "cpu"
    for kind in KINDS:
        options = placement.options(kind)
        assert options["num_cpus"] == 0
        assert "num_gpus" not in options
        assert options["runtime_env"]["env_vars"]["DS_ACCELERATOR"] == "cpu"


def test_gloo_leaves_the_loopback_only_on_several_nodes() -> None:
    assert decide(Config(), gpus=0, nodes=1).environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in decide(Config(), gpus=0, nodes=2).environment


def test_only_a_policy_in_a_folder_forbids_the_model_hub() -> None:
    cfg = Config()
    assert decide(cfg, gpus=0).environment["HF_HUB_OFFLINE"] == "1"
    cfg.policy.path = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert "HF_HUB_OFFLINE" not in decide(cfg, gpus=0).environment


def test_actors_on_gpu_get_their_share() -> None:
    apart = decide(gpu_config(), gpus=10)
    assert apart.device == "cuda"
    assert apart.options("rollout")["num_gpus"] == 2
    assert apart.options("learner")["num_gpus"] == 1
    assert 0 < apart.options("reward")["num_gpus"] < 1
    assert "DS_ACCELERATOR" not in apart.environment


def test_judges_divide_the_gpus_among_them() -> None:
    cfg = gpu_config()
    cfg.segmenter.workers = 12
    assert decide(cfg, gpus=12).options("judge")["num_gpus"] == 1
    assert decide(cfg, gpus=10).options("judge")["num_gpus"] == 0.83


def test_gpu_weight_backends_without_a_gpu_are_one_clear_error() -> None:
    for backend in ("nccl", "ipc"):
        with pytest.raises(
            ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"
        ):
            decide(gpu_config(use_gpu="no", weight_backend=backend), gpus=0)
    decide(gpu_config(use_gpu="no"), gpus=0)


def test_ipc_needs_a_learner_rank_for_each_engine() -> None:
    cfg = gpu_config(weight_backend="ipc")
    with pytest.raises(
        ValueError, match="rollout.workers=3, rollout.tensor_parallel=2 and learner.world_size=4"
    ):
        decide(cfg, gpus=0)
    cfg.rollout.tensor_parallel = 1
    with pytest.raises(ValueError, match="ask for 4 GPUs, the cluster has 0"):
        decide(cfg, gpus=0)
    assert decide(cfg, gpus=4).options("learner")["num_gpus"] == 0.5


PAIRS = """
import ray
from cluster.placement import place
from configs.schema import Config

class Seat:
    def gpus(self):
        return ray.get_gpu_ids()

cfg = Config()
cfg.cluster.use_gpu = "yes"
cfg.cluster.weight_backend = "ipc"
cfg.rollout.workers = 2
cfg.learner.world_size = 3
ray.init(address="local", num_cpus=8, num_gpus=3, include_dashboard=False, log_to_driver=False)
placement = place(cfg)
# In the order in which a run starts them.
order = [("rollout", 0), ("rollout", 1), ("learner", 0), ("learner", 1), ("learner", 2)]
seats = [ray.remote(Seat).options(**placement.options(*who)).remote() for who in order]
print(ray.get([seat.gpus.remote() for seat in seats], timeout=60))
"""


def test_with_ipc_actor_and_rank_of_one_number_share_a_gpu() -> None:
    """On a Ray of its own that claims three GPUs: Ray places actors without touching them."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PAIRS], capture_output=True, text=True, env=env, timeout=180
    )
    assert done.returncode == 0, done.stderr
    first, second, *ranks = ast.literal_eval(done.stdout.splitlines()[-1])
    assert [first, second] == ranks[:2]
    assert sorted(ranks) == [[0], [1], [2]]


def test_compiled_operators_have_one_fixed_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_env()["TORCH_EXTENSIONS_DIR"] == torch_extensions_dir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "elsewhere")
    assert torch_extensions_dir() == "elsewhere"
