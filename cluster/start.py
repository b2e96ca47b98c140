"""Joins or starts a Ray cluster, and says on which hardware each kind of actor goes.

On CPU all actors share the cores, so none reserves one: they take turns by the order of the step. On GPU every
learner rank has a whole GPU, every rollout actor `tensor_parallel` of them, and reward and segmenter actors share
one. Knows no model and no data.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from cluster.environment import common_env, cpu_env, offline_env
from configs.schema import Config

SHARED_GPU = 0.1  # of a reward or segmenter actor


def wants_gpu(cfg: Config) -> bool:
    """`cluster.use_gpu`; "auto" looks at the resources of the cluster that was joined."""
    if cfg.cluster.use_gpu == "auto":
        return ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    return cfg.cluster.use_gpu == "yes"


def actor_env(cfg: Config) -> dict[str, str]:
    """Environment variables of every actor."""
    env = common_env() if wants_gpu(cfg) else cpu_env(one_node=not spans_nodes(cfg))
    # A folder on disk needs no hub; forbidding the look-up makes a wrong path fail at once instead of after retries.
    return env | (offline_env() if os.path.isdir(cfg.policy.path) else {})


def spans_nodes(cfg: Config) -> bool:
    return len([node for node in ray.nodes() if node["Alive"]]) > 1


def join(cfg: Config) -> None:
    """Connects to the job's cluster (`ray job submit`), to `cluster.address`, or starts a local head.

    Raises:
        ValueError: the placement asks for more GPUs than the cluster has.
    """
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if cfg.cluster.address:
            options["address"] = cfg.cluster.address
        elif not os.environ.get("RAY_ADDRESS"):  # set inside a job
            # Without an address Ray would join any head that happens to run on this machine.
            options |= {"address": "local", "num_cpus": max(8, os.cpu_count() or 1), "include_dashboard": False}
        ray.init(**options)
    check_gpus(cfg)


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
    options: dict[str, Any] = {"runtime_env": {"env_vars": actor_env(cfg)}}
    if not wants_gpu(cfg):
        return options | {"num_cpus": 0}
    if kind in ("reward", "segmenter"):
        return options | {"num_cpus": 1, "num_gpus": SHARED_GPU}
    whole = {"rollout": cfg.rollout.tensor_parallel, "learner": 1}[kind]
    share = whole / 2 if cfg.cluster.weight_backend == "ipc" else whole
    return options | {"num_cpus": 1, "num_gpus": share}


def device_of(cfg: Config) -> str:
    return "cuda" if wants_gpu(cfg) else "cpu"
