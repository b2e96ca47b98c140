"""Placement: what a run asks of a cluster, and the one error when the cluster lacks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cluster.environment import cpu_env, torch_extensions_dir
from cluster.placement import Kind, decide, is_autoscaled
from cluster.plan import Node
from cluster.watch import Watch
from configs.schema import Config

KINDS: tuple[Kind, ...] = ("rollout", "learner", "reward", "segmenter", "drawer", "judge")


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


def test_too_few_gpus_is_one_clear_error() -> None:
    with pytest.raises(
        ValueError, match=r"3 engines x 2 GPU .* = 10.2 GPUs, 11 whole ones .* has 0 GPUs"
    ):
        decide(gpu_config(), [])


def test_auto_takes_the_gpus_of_the_cluster() -> None:
    assert decide(Config(), []).device == "cpu"
    assert decide(Config(), [Node(3)]).device == "cuda"
    with pytest.raises(ValueError, match="= 2.2 GPUs, 3 whole ones .* the cluster has 2 GPUs"):
        decide(Config(), [Node(2)])
    without = Config()
    without.cluster.use_gpu = "no"
    assert decide(without, [Node(8)]).device == "cpu"


def test_actors_on_cpu_reserve_nothing_and_carry_their_environment() -> None:
    placement = decide(Config(), [])
    assert placement.device == "cpu"
    assert placement.count("rollout", 5) == 5
    for kind in KINDS:
        options = placement.options(kind, 0)
        assert options["num_cpus"] == 0
        assert "num_gpus" not in options
        assert options["runtime_env"]["env_vars"]["DS_ACCELERATOR"] == "cpu"


def test_gloo_leaves_the_loopback_only_on_several_nodes() -> None:
    assert decide(Config(), [Node(0)]).environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in decide(Config(), [Node(0), Node(0)]).environment


def test_only_a_policy_in_a_folder_forbids_the_model_hub() -> None:
    cfg = Config()
    assert decide(cfg, []).environment["HF_HUB_OFFLINE"] == "1"
    cfg.policy.path = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert "HF_HUB_OFFLINE" not in decide(cfg, []).environment


def test_actors_on_gpu_get_their_share() -> None:
    apart = decide(gpu_config(), [Node(11)])
    assert apart.device == "cuda"
    assert apart.options("rollout")["num_gpus"] == 2
    assert apart.options("learner")["num_gpus"] == 1
    assert 0 < apart.options("reward")["num_gpus"] < 1
    assert "DS_ACCELERATOR" not in apart.environment


def test_an_evaluation_beside_has_the_seats_behind_those_of_the_training() -> None:
    cfg = gpu_config()
    cfg.train.eval_every = 1
    cfg.train.eval_beside = True
    placement = decide(cfg, [Node(14)])
    watch = Watch()
    beside = placement.beside(watch)
    assert beside.watch is watch
    assert beside.count("rollout", 3) == 1
    assert beside.options("rollout", 0)["num_gpus"] == 2
    assert beside.plan.bundles == placement.plan.bundles[beside.first_bundle :]
    assert beside.first_bundle == len(placement.plan.own)


def test_an_evaluation_beside_reserves_no_cores() -> None:
    cfg = Config()
    cfg.rollout.workers = "auto"
    cfg.train.eval_every = 1
    cfg.train.eval_beside = True
    placement = decide(cfg, [Node(0, 8)])
    assert placement.options("rollout", 0)["num_cpus"] > 0
    assert placement.beside(Watch()).options("rollout", 0)["num_cpus"] == 0


def test_an_autoscaler_is_known_by_its_node_groups() -> None:
    """Statuses as Ray 2.60 wrote them, of a head with an autoscaler and of one without."""
    grouped = {"active_nodes": {"ray.head.default": 1}, "idle_nodes": None}
    assert is_autoscaled({"autoscaler_report": grouped})
    by_hand = {"active_nodes": {"node_0a1b2c": 1}, "idle_nodes": None}
    assert not is_autoscaled({"autoscaler_report": by_hand})
    assert not is_autoscaled({"load_metrics_report": {}})


def test_gpu_weight_backends_without_a_gpu_are_one_clear_error() -> None:
    for backend in ("nccl", "ipc"):
        with pytest.raises(
            ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"
        ):
            decide(gpu_config(use_gpu="no", weight_backend=backend), [])
    decide(gpu_config(use_gpu="no"), [])


SEATS = """
import json
import time
import ray
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
from cluster.placement import place
from cluster.room import ask_autoscaler, room, withdraw
from configs.schema import Config

class Seat:
    def gpus(self):
        return ray.get_gpu_ids()

def seats(placement, order):
    actors = [ray.remote(Seat).options(**placement.options(*who)).remote() for who in order]
    gpus = ray.get([actor.gpus.remote() for actor in actors], timeout=60)
    return actors, gpus

cfg = Config()
cfg.cluster.use_gpu = "yes"
cfg.cluster.wait_s = 2.0
cfg.cluster.weight_backend = "ipc"
cfg.rollout.workers = 2
cfg.learner.world_size = 3
ray.init(address="local", num_cpus=16, num_gpus=3, include_dashboard=False, log_to_driver=False)

# In the order in which a run starts them.
others = [("reward", 0), ("segmenter", 0)]
paired = place(cfg)
pairs = [("rollout", 0), ("rollout", 1), *others, ("learner", 0), ("learner", 1), ("learner", 2)]
actors, found = seats(paired, pairs)
# A replacement in the seat of a lost engine.
ray.kill(actors[1])
again = seats(paired, [("rollout", 1)])[1]

# The GPUs are taken: a second job waits, says so, and gives up.
said = []
waited = ""
try:
    place(cfg, "evaluate", said.append)
except ValueError as error:
    waited = str(error)
paired.release()

cfg.rollout.workers = 3
lent = place(cfg, "evaluate", said.append)
engines = [("rollout", 0), ("rollout", 1), ("rollout", 2)]
evaluated = seats(lent, others + engines)[1]
lent.release()

# Elastic engines: one is reserved, the others take what is free.
need = {"GPU": 1.0, "CPU": 1.0}
end = time.monotonic() + 30
while room(need) < 3 and time.monotonic() < end:
    time.sleep(0.1)
free = [room(need)]
cfg.rollout.workers = "auto"
cfg.learner.world_size = 1
cfg.cluster.weight_backend = "object_store"
elastic = place(cfg)
end = time.monotonic() + 30
while room(elastic.engine_need) > 0 and time.monotonic() < end:
    time.sleep(0.1)
free.append(room(elastic.engine_need))
ask_autoscaler([need, need])
asked = json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
withdraw()
after = json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
elastic.release()
found = {"pairs": found, "again": again, "said": said, "waited": waited, "evaluated": evaluated}
found |= {"free": free, "asked": asked, "after": after, "reserved": elastic.plan.count("rollout")}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def seats() -> dict[str, Any]:
    """The seats on a Ray of its own that claims three GPUs: it places actors without a GPU."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SEATS], capture_output=True, text=True, env=env, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_with_ipc_actor_and_rank_of_one_number_share_a_gpu(seats: dict[str, Any]) -> None:
    first, second, reward, segmenter, *ranks = seats["pairs"]
    assert [first, second] == ranks[:2]
    assert sorted(ranks) == [[0], [1], [2]]
    # No GPU is left beside the pairs, so they lend a part.
    assert reward in ranks
    assert segmenter in ranks
    assert seats["again"] == [second]


def test_a_job_waits_for_gpus_that_another_one_holds(seats: dict[str, Any]) -> None:
    [said] = seats["said"]
    assert "waiting for 2 engines x 1 GPU" in said
    assert "of which 0 GPUs" in said
    assert "not placed within cluster.wait_s=2" in seats["waited"]


def test_engines_of_an_evaluation_lend_a_part_of_their_gpus(seats: dict[str, Any]) -> None:
    reward, segmenter, *engines = seats["evaluated"]
    assert sorted(engines) == [[0], [1], [2]]
    assert reward in engines
    assert segmenter in engines


def test_elastic_engines_take_what_is_free(seats: dict[str, Any]) -> None:
    assert seats["reserved"] == 1
    # An engine, a rank, and the others on a GPU: no whole one is left.
    assert seats["free"] == [3, 0]
    assert seats["asked"] == [{"GPU": 1.0, "CPU": 1.0}] * 2
    assert seats["after"] == []


def test_elastic_engines_without_gpus_have_a_share_of_the_cores() -> None:
    cfg = gpu_config(use_gpu="no")
    cfg.rollout.workers = "auto"
    cfg.rollout.cpus_per_worker = 4
    placement = decide(cfg, [Node(0, 8)])
    assert placement.engine_need == {"CPU": 4.0}
    assert placement.options("rollout", 0)["num_cpus"] == 4
    assert placement.options("reward", 0)["num_cpus"] == 0
    cfg.rollout.min_workers = 3
    with pytest.raises(ValueError, match="rollout.min_workers=3 .* has room for 2 such engines"):
        decide(cfg, [Node(0, 8)])


def test_compiled_operators_have_one_fixed_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_env()["TORCH_EXTENSIONS_DIR"] == torch_extensions_dir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "elsewhere")
    assert torch_extensions_dir() == "elsewhere"
