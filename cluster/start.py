"""Joins or starts a Ray cluster, and says on which hardware each kind of actor goes.

On CPU all actors share the cores, so none reserves one: they take turns by the order of the step. On GPU every
learner rank has a whole GPU, every rollout actor `tensor_parallel` of them, and reward and segmenter actors share
one; with cluster.weight_backend = ipc rollout actor i and learner rank i share a GPU. Knows no model and no data.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.environment import common_env, cpu_env, offline_env
from configs.schema import Config

SHARED_GPU = 0.1  # of a reward or segmenter actor
GPU_PAIRS = "rayvos_gpu_pairs"  # name of the placement group, within the job


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


@contextmanager
def joined(cfg: Config, while_joining: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """`join`, and leaves again; a connection that was there before stays. `while_joining`: what shows that it takes
    a while."""
    connected_before = ray.is_initialized()
    try:
        with while_joining or nullcontext():
            join(cfg)
        yield
    finally:
        if not connected_before:
            ray.shutdown()


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
            options |= {
                "address": "local",
                "num_cpus": max(8, os.cpu_count() or 1),
                "include_dashboard": False,
            }
        ray.init(**options)
    check_gpus(cfg)


def gpus_asked(cfg: Config) -> float:
    colocated = cfg.cluster.weight_backend == "ipc"  # rollout and learner share each GPU
    rollout = cfg.rollout.workers * cfg.rollout.tensor_parallel
    return max(rollout, cfg.learner.world_size) if colocated else rollout + cfg.learner.world_size


def check_gpus(cfg: Config) -> None:
    """Raises ValueError before any engine starts when the asked placement cannot be met."""
    backend = cfg.cluster.weight_backend
    if not wants_gpu(cfg):
        if backend != "object_store":
            raise ValueError(f"cluster.weight_backend={backend} needs GPUs; use object_store")
        return
    if backend == "ipc" and (
        cfg.rollout.tensor_parallel > 1 or cfg.rollout.workers > cfg.learner.world_size
    ):
        raise ValueError(
            f"cluster.weight_backend=ipc: each rollout actor shares the GPU of one learner rank, but "
            f"rollout.workers={cfg.rollout.workers}, rollout.tensor_parallel={cfg.rollout.tensor_parallel} and "
            f"learner.world_size={cfg.learner.world_size}; set tensor_parallel=1 and workers to at most world_size"
        )
    have = ray.cluster_resources().get("GPU", 0)
    want = gpus_asked(cfg)
    if want > have:
        raise ValueError(
            f"rollout.workers={cfg.rollout.workers} x rollout.tensor_parallel={cfg.rollout.tensor_parallel} and "
            f"learner.world_size={cfg.learner.world_size} ask for {want:g} GPUs, the cluster has {have:g}: "
            "lower them, add nodes, or set cluster.use_gpu=no"
        )


def actor_options(cfg: Config, kind: str, number: int | None = None) -> dict[str, Any]:
    """Ray options of one actor of a kind: "rollout", "learner", "reward" or "segmenter".

    Args:
        number: of a rollout actor or learner rank, which with ipc decides on its GPU.
    """
    options: dict[str, Any] = {"runtime_env": {"env_vars": actor_env(cfg)}}
    if not wants_gpu(cfg):
        return options | {"num_cpus": 0}
    if kind in ("reward", "segmenter"):
        return options | {"num_cpus": 1, "num_gpus": SHARED_GPU}
    whole = {"rollout": cfg.rollout.tensor_parallel, "learner": 1}[kind]
    if cfg.cluster.weight_backend != "ipc":
        return options | {"num_cpus": 1, "num_gpus": whole}
    place = {} if number is None else {"scheduling_strategy": shared_gpu(cfg, number)}
    return options | {"num_cpus": 1, "num_gpus": 0.5} | place


def shared_gpu(cfg: Config, number: int) -> PlacementGroupSchedulingStrategy:
    """Bundle `number` of a group with one GPU each: halves alone would be packed, two learner ranks on one GPU."""
    try:
        group = ray.util.get_placement_group(GPU_PAIRS)
    except ValueError:  # not made yet
        group = ray.util.placement_group(
            [{"GPU": 1, "CPU": 2}] * cfg.learner.world_size, name=GPU_PAIRS
        )
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)


def device_of(cfg: Config) -> str:
    return "cuda" if wants_gpu(cfg) else "cpu"
