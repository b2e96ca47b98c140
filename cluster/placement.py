"""Device, resources and environment of a job's actors, decided once after Ray is joined.

On CPU all actors share the cores and none reserves one: they take turns by the order of the step.
On GPU the job's plan (`cluster.plan`) is reserved as one placement group before any actor starts:
all of it or nothing, so two jobs never wait for each other's half. Where an autoscaler runs, or
other jobs hold the GPUs, the job waits for it, `cluster.wait_s` at most.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.environment import common_env, cpu_env, offline_env, store_env
from cluster.lost import Deaths
from cluster.plan import (
    SHARED_GPU,
    Device,
    Job,
    Kind,
    Node,
    Plan,
    check_pairs,
    plan_of,
    room_of,
    shortage,
    tightest_plan,
)
from cluster.room import slots
from cluster.watch import Limits, Watch
from configs.schema import Config

__all__ = ["Device", "Job", "Kind", "Placement", "Say", "decide", "place"]

# Seconds without an answer from Ray after which a job says that it waits.
PATIENCE_S = 3.0
# Seconds for the first report of the monitor of Ray's head.
MONITOR_S = 6.0
# Where the monitor of Ray's head writes what it knows (`ray status` prints it).
STATUS_KEY = "__autoscaling_status"
# How the monitor names the nodes of a cluster that nobody scales: by their id.
READ_ONLY_NODE = "node_"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Placement:
    """The hardware and environment of every actor of one job.

    Attributes:
        device: the device of all actors.
        environment: environment variables of every actor and task.
        plan: the job's actors on GPUs; empty on CPU.
        group: the reserved resources, one bundle for each of the plan; None on CPU.
        engine_cpus: cores that an engine reserves on CPU (`rollout.workers=auto`); else 0.
        first_bundle: place in the group of the plan's first bundle.
        watch: told of every actor that starts or is lost.
    """

    device: Device
    environment: Mapping[str, str]
    plan: Plan
    group: PlacementGroup | None = None
    engine_cpus: int = 0
    first_bundle: int = 0
    watch: Watch = field(default_factory=Watch, compare=False)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's `runtime_env` for actors and tasks."""
        return {"env_vars": dict(self.environment)}

    def count(self, kind: Kind, configured: int) -> int:
        """Return the number of actors of a kind: fewer engines than configured on few GPUs."""
        return self.plan.count(kind) or configured

    def options(self, kind: Kind, number: int | None = None) -> dict[str, Any]:
        """Return the Ray options of one actor.

        Args:
            number: its seat among the actors of its kind, from 0. Without one, or beyond the plan,
                Ray places it anywhere.
        """
        options: dict[str, Any] = {"runtime_env": self.runtime_env, "num_cpus": 0}
        if self.device == "cpu":
            if kind == "rollout":
                options["num_cpus"] = self.engine_cpus
            return options
        default = 1.0 if kind in ("rollout", "learner") else SHARED_GPU
        options |= {"num_cpus": 1, "num_gpus": self.plan.share(kind, default)}
        bundle = None if number is None else self.plan.bundle_of(kind, number)
        if self.group is not None and bundle is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=self.first_bundle + bundle
            )
        return options

    @property
    def engine_need(self) -> dict[str, float]:
        """What an engine beyond the plan needs of one node; empty: it takes turns with others."""
        if self.device == "cpu":
            return {"CPU": float(self.engine_cpus)} if self.engine_cpus else {}
        return {"GPU": self.plan.share("rollout", 1.0), "CPU": 1.0}

    def beside(self, watch: Watch) -> Placement:
        """Return the placement of an evaluation beside this training.

        Args:
            watch: told of its actors.
        """
        first = self.first_bundle + len(self.plan.own)
        return replace(
            self, plan=self.plan.evaluation, engine_cpus=0, first_bundle=first, watch=watch
        )

    def release(self) -> None:
        """Give the reserved resources back; actors in them end. Nothing is watched any more."""
        self.watch.close()
        if self.group is not None and ray.is_initialized():
            ray.util.remove_placement_group(self.group)


def place(cfg: Config, job: Job = "train", say: Say = print) -> Placement:
    """Decide on the placement of a job in the joined cluster, and reserve its GPUs.

    Args:
        say: told once what the job waits for, if it has to.

    Raises:
        ValueError: as `decide`, or the GPUs did not come within cluster.wait_s.
    """
    nodes = nodes_of_cluster()
    try:
        placement = decide(cfg, nodes, job)
    except ValueError:
        if not _may_wait(cfg, job):
            raise
        plan = tightest_plan(cfg, job)
        wait = f"{cfg.cluster.wait_s:g} s at most (cluster.wait_s)"
        say(f"waiting for the autoscaler, {wait}: {shortage(plan, nodes)}")
        say = _silent
        placement = Placement("cuda", _environment(cfg, "cuda", len(nodes)), plan)
    watch = Watch(Deaths(say), Limits(cfg.cluster.hang_s, cfg.cluster.start_s))
    group = None
    if placement.plan.bundles:
        group = _reserve(cfg, placement.plan, say)
    return replace(placement, group=group, watch=watch)


def decide(cfg: Config, nodes: list[Node], job: Job = "train") -> Placement:
    """Decide on the placement of a job on these nodes; nothing is reserved.

    Raises:
        ValueError: settings beyond these nodes. No engine has started by then.
    """
    device = device_of(cfg, nodes)
    plan = Plan(job)
    engine_cpus = 0
    if device == "cuda":
        plan = plan_of(cfg, job, nodes)
    elif cfg.rollout.workers == "auto":
        engine_cpus = _engine_cpus(cfg, nodes)
    elif cfg.cluster.weight_backend != "object_store":
        raise ValueError(
            f"cluster.weight_backend={cfg.cluster.weight_backend} needs GPUs; use object_store"
        )
    environment = _environment(cfg, device, len(nodes))
    return Placement(device, environment, plan, engine_cpus=engine_cpus)


def _engine_cpus(cfg: Config, nodes: Sequence[Node]) -> int:
    """Return the cores of an engine on CPU.

    Raises:
        ValueError: the nodes have no room for `rollout.min_workers` engines.
    """
    cores = cfg.rollout.cpus_per_worker
    least = cfg.rollout.min_workers
    has = slots([{"CPU": node.cpus} for node in nodes], {"CPU": cores})
    if has < least:
        raise ValueError(
            f"rollout.min_workers={least} with rollout.cpus_per_worker={cores}: the cluster has "
            f"room for {has} such engines ({room_of(nodes)}); lower one of them, or add nodes"
        )
    return cores


def device_of(cfg: Config, nodes: list[Node]) -> Device:
    """Return the device of all actors, by cluster.use_gpu and the GPUs of the nodes."""
    any_gpu = any(node.gpus > 0 for node in nodes)
    use_gpu = cfg.cluster.use_gpu == "yes" or (cfg.cluster.use_gpu == "auto" and any_gpu)
    return "cuda" if use_gpu else "cpu"


def nodes_of_cluster() -> list[Node]:
    """Return the nodes of the joined cluster that are alive."""
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            nodes.append(Node(resources.get("GPU", 0.0), resources.get("CPU", 0.0)))
    return nodes


def autoscaler_runs() -> bool:
    """Return True if an autoscaler may add nodes to the joined cluster.

    Ray's monitor reports the kind of every node: a node group of the autoscaler's configuration,
    or an id where nodes were started by hand. KubeRay and `ray up` give such groups. Ray's newer
    autoscaler (v2) does not report there: cluster.autoscaler=yes says it instead.
    """
    end = time.monotonic() + MONITOR_S
    text = _internal_kv_get(STATUS_KEY)
    # The monitor reports some seconds after the head has started.
    while not text and time.monotonic() < end:
        time.sleep(0.5)
        text = _internal_kv_get(STATUS_KEY)
    if not text:
        return False
    return is_autoscaled(json.loads(text))


def is_autoscaled(status: Mapping[str, Any]) -> bool:
    """Return True for the monitor's status of a cluster with an autoscaler."""
    report = status.get("autoscaler_report") or {}
    kinds = {**(report.get("active_nodes") or {}), **(report.get("idle_nodes") or {})}
    return any(not kind.startswith(READ_ONLY_NODE) for kind in kinds)


def _silent(text: str) -> None:
    """Say nothing: what the job waits for was said before."""


def _may_wait(cfg: Config, job: Job) -> bool:
    """Return True if more nodes may come. Raises for settings that no node can help."""
    check_pairs(cfg, job)
    if cfg.cluster.use_gpu == "no" or cfg.cluster.wait_s <= 0:
        return False
    if cfg.cluster.autoscaler == "auto":
        return autoscaler_runs()
    return cfg.cluster.autoscaler == "yes"


def _environment(cfg: Config, device: Device, nodes: int) -> dict[str, str]:
    environment = common_env() if device == "cuda" else cpu_env(one_node=nodes <= 1)
    environment |= store_env(cfg.rollout.prompts_per_step * (1 + cfg.rollout.max_staleness))
    # A policy in a folder needs no model hub. Without the look-up a wrong path fails at once
    # instead of after retries.
    if os.path.isdir(cfg.policy.path):
        environment |= offline_env()
    return environment


def _reserve(cfg: Config, plan: Plan, say: Say) -> PlacementGroup:
    """Reserve all bundles of a plan, together.

    Raises:
        ValueError: they did not become free within cluster.wait_s.
    """
    bundles = [{"GPU": bundle.gpus, "CPU": bundle.cpus} for bundle in plan.bundles]
    group = ray.util.placement_group(bundles, strategy="PACK")
    if group.wait(PATIENCE_S):
        return group

    wait_s = cfg.cluster.wait_s
    free = ray.available_resources()
    say(
        f"waiting for {plan}, {wait_s:g} s at most (cluster.wait_s): the cluster has "
        f"{room_of(nodes_of_cluster())}, of which {free.get('GPU', 0):g} GPUs and "
        f"{free.get('CPU', 0):g} CPU cores are free"
    )
    if group.wait(wait_s):
        return group
    ray.util.remove_placement_group(group)
    raise ValueError(
        f"{shortage(plan, nodes_of_cluster())}; not placed within cluster.wait_s={wait_s:g}: "
        "other jobs hold them, or the autoscaler cannot add such nodes (`ray status` says which)"
    )
