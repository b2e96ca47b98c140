"""Device, resources and environment of a run's actors, decided once after Ray is joined.

On CPU all actors share the cores and none reserves one: they take turns by the order of the step.
On GPU a learner rank has one GPU, a rollout actor `rollout.tensor_parallel` of them, and reward
and segmenter actors share the rest in tenths. With cluster.weight_backend=ipc rollout actor i
and learner rank i share a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.environment import common_env, cpu_env, offline_env
from configs.schema import Config

Device = Literal["cpu", "cuda"]
Kind = Literal["rollout", "learner", "reward", "segmenter", "judge"]

# Share of a GPU that a reward or segmenter actor reserves.
SHARED_GPU = 0.1
# Name of the placement group of cluster.weight_backend=ipc, within the job.
GPU_PAIRS = "rayvos_gpu_pairs"


@dataclass(frozen=True)
class Placement:
    """The hardware and environment of every actor of one run.

    Attributes:
        device: the device of all actors.
        environment: environment variables of every actor and task.
        resources: Ray's resource options of one actor, by its kind.
        gpu_pairs: with cluster.weight_backend=ipc the number of GPUs shared by a rollout actor and
            a learner rank each; otherwise 0.
    """

    device: Device
    environment: Mapping[str, str]
    resources: Mapping[Kind, Mapping[str, float]]
    gpu_pairs: int = 0

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's `runtime_env` for actors and tasks."""
        return {"env_vars": dict(self.environment)}

    def options(self, kind: Kind, number: int | None = None) -> dict[str, Any]:
        """Return the Ray options of one actor.

        Args:
            number: number of the rollout actor or learner rank; with ipc it decides on the GPU.
        """
        options: dict[str, Any] = {"runtime_env": self.runtime_env, **self.resources[kind]}
        if self.gpu_pairs and kind in ("rollout", "learner") and number is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                _gpu_pairs(self.gpu_pairs), placement_group_bundle_index=number
            )
        return options


def place(cfg: Config) -> Placement:
    """Decide on the placement of a run in the joined cluster. Raises the errors of `decide`."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    gpus = ray.cluster_resources().get("GPU", 0)
    return decide(cfg, gpus, len(alive))


def decide(cfg: Config, gpus: float, nodes: int = 1) -> Placement:
    """Decide on the placement of a run in a cluster with these numbers of GPUs and nodes.

    Raises:
        ValueError: settings beyond this cluster. No engine has started by then.
    """
    use_gpu = cfg.cluster.use_gpu == "yes" or (cfg.cluster.use_gpu == "auto" and gpus > 0)
    if use_gpu:
        _check_gpus(cfg, gpus)
        environment = common_env()
        resources = _gpu_resources(cfg, gpus)
    else:
        _check_cpu(cfg)
        environment = cpu_env(one_node=nodes <= 1)
        resources = _cpu_resources()

    # A policy in a folder needs no model hub. Without the look-up a wrong path fails at once
    # instead of after retries.
    if os.path.isdir(cfg.policy.path):
        environment |= offline_env()

    colocated = use_gpu and cfg.cluster.weight_backend == "ipc"
    return Placement(
        device="cuda" if use_gpu else "cpu",
        environment=environment,
        resources=resources,
        gpu_pairs=cfg.learner.world_size if colocated else 0,
    )


def gpus_asked(cfg: Config) -> int:
    """Return the number of GPUs for engines and learner ranks."""
    rollout = cfg.rollout.workers * cfg.rollout.tensor_parallel
    if cfg.cluster.weight_backend == "ipc":
        return max(rollout, cfg.learner.world_size)
    return rollout + cfg.learner.world_size


def _cpu_resources() -> dict[Kind, dict[str, float]]:
    nothing: dict[str, float] = {"num_cpus": 0}
    return {
        "rollout": nothing,
        "learner": nothing,
        "reward": nothing,
        "segmenter": nothing,
        "judge": nothing,
    }


def _gpu_resources(cfg: Config, gpus: float) -> dict[Kind, dict[str, float]]:
    if cfg.cluster.weight_backend == "ipc":
        rollout = 0.5
        learner = 0.5
    else:
        rollout = float(cfg.rollout.tensor_parallel)
        learner = 1.0

    # While the label filter runs nothing else does, so its judges divide all GPUs among them.
    # Ray counts in ten-thousandths of a GPU; rounding down to hundredths makes sure all fit.
    judges = cfg.segmenter.workers
    judge = 1.0 if gpus >= judges else int(100 * gpus / judges) / 100

    shares: dict[Kind, float] = {
        "rollout": rollout,
        "learner": learner,
        "reward": SHARED_GPU,
        "segmenter": SHARED_GPU,
        "judge": judge,
    }
    return {kind: {"num_cpus": 1, "num_gpus": share} for kind, share in shares.items()}


def _check_cpu(cfg: Config) -> None:
    backend = cfg.cluster.weight_backend
    if backend != "object_store":
        raise ValueError(f"cluster.weight_backend={backend} needs GPUs; use object_store")


def _check_gpus(cfg: Config, gpus: float) -> None:
    rollout = cfg.rollout
    ranks = cfg.learner.world_size
    if cfg.cluster.weight_backend == "ipc" and (
        rollout.tensor_parallel > 1 or rollout.workers > ranks
    ):
        raise ValueError(
            f"cluster.weight_backend=ipc: each rollout actor shares the GPU of one learner rank, "
            f"but rollout.workers={rollout.workers}, "
            f"rollout.tensor_parallel={rollout.tensor_parallel} and learner.world_size={ranks}; "
            "set tensor_parallel=1 and workers to at most world_size"
        )
    asked = gpus_asked(cfg)
    if asked > gpus:
        raise ValueError(
            f"rollout.workers={rollout.workers} x "
            f"rollout.tensor_parallel={rollout.tensor_parallel} and learner.world_size={ranks} "
            f"ask for {asked:g} GPUs, the cluster has {gpus:g}: "
            "lower them, add nodes, or set cluster.use_gpu=no"
        )


def _gpu_pairs(gpus: int) -> PlacementGroup:
    """Return the job's placement group of one bundle a GPU; create it on first use.

    Bundles are needed because Ray packs plain halves: two learner ranks would share a GPU.
    """
    try:
        return ray.util.get_placement_group(GPU_PAIRS)
    except ValueError:
        return ray.util.placement_group([{"GPU": 1, "CPU": 2}] * gpus, name=GPU_PAIRS)
