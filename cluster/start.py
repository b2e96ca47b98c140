"""Joins or starts a Ray cluster, and says on which hardware each kind of actor goes.

On CPU all actors share the cores, so none reserves one: they take turns by the order of the step. On GPU every
learner rank has a whole GPU, every rollout actor `tensor_parallel` of them, and reward and segmenter actors share
one. Knows no model and no data.
"""

from __future__ import annotations

import os
from typing import Any

import ray

from cluster.environment import common_env, cpu_env, offline_env
from configs.schema import Config

SHARED_GPU = 0.1  # of a reward or segmenter actor


def wants_gpu(cfg: Config) -> bool:
    """`cluster.use_gpu`; "auto" looks at the resources of the running cluster."""
    if cfg.cluster.use_gpu == "auto":
        return ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    return cfg.cluster.use_gpu == "yes"


def env_for(cfg: Config, gpu: bool) -> dict[str, str]:
    env = common_env() if gpu else cpu_env(one_node=not cfg.cluster.address)
    # A folder on disk needs no hub; forbidding the look-up makes a wrong path fail at once instead of after retries.
    return env | (offline_env() if os.path.isdir(cfg.policy.path) else {})


def join(cfg: Config) -> dict[str, str]:
    """Connects to the job's cluster, to `cluster.address`, or starts a local head. Returns the actors' environment.

    Raises:
        ValueError: the placement asks for more GPUs than the cluster has.
    """
    inside_a_job = bool(os.environ.get("RAY_ADDRESS"))
    env = env_for(cfg, gpu=False) if cfg.cluster.use_gpu == "no" else env_for(cfg, gpu=_gpu_on_this_host(cfg))
    options: dict[str, Any] = {"runtime_env": {"env_vars": env}, "log_to_driver": False}
    if cfg.cluster.address:
        options["address"] = cfg.cluster.address
    elif not inside_a_job:
        options |= {"num_cpus": max(8, os.cpu_count() or 1), "include_dashboard": False}
        # Without an address Ray would join any head that happens to run on this machine.
        options["address"] = "local"
    if not ray.is_initialized():
        ray.init(**options)
    check_gpus(cfg)
    return env


def _gpu_on_this_host(cfg: Config) -> bool:
    return cfg.cluster.use_gpu == "yes" or os.path.exists("/proc/driver/nvidia/version")


def gpus_asked(cfg: Config) -> float:
    colocated = cfg.cluster.weight_backend == "ipc"  # rollout and learner share each GPU
    rollout = cfg.rollout.workers * cfg.rollout.tensor_parallel
    return max(rollout, cfg.learner.world_size) if colocated else rollout + cfg.learner.world_size


def check_gpus(cfg: Config) -> None:
    """Raises ValueError before any engine starts when the asked placement cannot be met."""
    if not wants_gpu(cfg):
        return
    have, want = ray.cluster_resources().get("GPU", 0), gpus_asked(cfg)
    if want > have:
        raise ValueError(
            f"rollout.workers={cfg.rollout.workers} x rollout.tensor_parallel={cfg.rollout.tensor_parallel} and "
            f"learner.world_size={cfg.learner.world_size} ask for {want:g} GPUs, the cluster has {have:g}: "
            "lower them, add nodes, or set cluster.use_gpu=no"
        )


def actor_options(cfg: Config, kind: str) -> dict[str, Any]:
    """Ray options of one actor of a kind: "rollout", "learner", "reward" or "segmenter"."""
    if not wants_gpu(cfg):
        return {"num_cpus": 0}
    if kind in ("reward", "segmenter"):
        return {"num_cpus": 1, "num_gpus": SHARED_GPU}
    whole = {"rollout": cfg.rollout.tensor_parallel, "learner": 1}[kind]
    return {"num_cpus": 1, "num_gpus": whole / 2 if cfg.cluster.weight_backend == "ipc" else whole}


def device_of(cfg: Config) -> str:
    return "cuda" if wants_gpu(cfg) else "cpu"
