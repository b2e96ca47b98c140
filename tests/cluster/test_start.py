"""Placement: what is asked of a cluster, and the one error when it is not there."""

from __future__ import annotations

import pytest

from cluster.environment import cpu_env, torch_extensions_dir
from cluster.start import actor_options, check_gpus, device_of, gpus_asked
from configs.schema import Config


def gpu_config(**changes) -> Config:
    cfg = Config()
    cfg.cluster.use_gpu = "yes"
    cfg.rollout.workers, cfg.rollout.tensor_parallel, cfg.learner.world_size = 3, 2, 4
    for name, value in changes.items():
        setattr(cfg.cluster, name, value)
    return cfg


def test_gpus_are_added_up_unless_engine_and_learner_share_them():
    assert gpus_asked(gpu_config()) == 3 * 2 + 4
    assert gpus_asked(gpu_config(weight_backend="ipc")) == 6


def test_too_few_gpus_is_one_clear_error(ray_env):
    with pytest.raises(ValueError, match=r"rollout.workers=3 x .* ask for 10 GPUs, the cluster has 0"):
        check_gpus(gpu_config())


def test_actors_on_cpu_reserve_nothing_and_carry_their_environment(ray_env):
    cfg = Config()
    for kind in ("rollout", "learner", "reward", "segmenter"):
        options = actor_options(cfg, kind)
        assert options["num_cpus"] == 0 and "num_gpus" not in options
        assert options["runtime_env"]["env_vars"]["DS_ACCELERATOR"] == "cpu"
    assert device_of(cfg) == "cpu"


def test_actors_on_gpu_get_their_share(ray_env):
    assert actor_options(gpu_config(), "rollout")["num_gpus"] == 2
    assert actor_options(gpu_config(), "learner")["num_gpus"] == 1
    assert actor_options(gpu_config(weight_backend="ipc"), "learner")["num_gpus"] == 0.5
    assert 0 < actor_options(gpu_config(), "reward")["num_gpus"] < 1


def test_compiled_operators_have_one_fixed_place(monkeypatch):
    assert cpu_env()["TORCH_EXTENSIONS_DIR"] == torch_extensions_dir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "elsewhere")
    assert torch_extensions_dir() == "elsewhere"
