"""Who is called when, over real processes. Bytes go through a TCP store here: no GPU is there to carry them."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
import ray

from actors import gpu_weights
from cluster.refs import start_actor
from cluster.weights import WeightVersion

LONG = timedelta(seconds=60)


class Rank:
    """A learner rank: a rendezvous and a transfer that end only if the other side is there at the same time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.store = None
        self.asked = 0

    def address(self) -> tuple[str, int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]

    def connect(self, master: dict) -> None:
        from torch.distributed import TCPStore

        self.world = master["world_size"]
        self.store = TCPStore(
            master["master_address"], master["master_port"], self.world, True, timeout=LONG
        )

    def send(self) -> int:
        if self.store is not None:
            self.store.set("weights", "of 5")
            self.store.wait([f"got {rank}" for rank in range(1, self.world)], LONG)
        return self.number

    def next_message(self) -> dict | None:
        self.asked += 1
        return {"names": [f"{self.number}.{self.asked}"]} if self.asked <= 3 else None


class Actor:
    """A rollout actor: asynchronous, like ours."""

    async def init_transfer(self, info: dict) -> None:
        from torch.distributed import TCPStore

        self.info = info
        if "rank_offset" in info:
            self.store = TCPStore(
                info["master_address"], info["master_port"], info["world_size"], False, timeout=LONG
            )

    async def take(self, weights: WeightVersion) -> list[str]:
        if weights.senders:
            rank = weights.senders[0]
            return [message["names"][0] async for message in gpu_weights.messages(rank)]
        self.store.wait(["weights"], LONG)
        self.store.set(f"got {self.info['rank_offset']}", "yes")
        return [self.store.get("weights").decode()]


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_receiving_and_sending_go_on_together(ray_env: dict[str, str], backend: str) -> None:
    ranks = tuple(start_actor(Rank, {"num_cpus": 0}, number) for number in range(3))
    workers = {number: start_actor(Actor, {"num_cpus": 0}) for number in range(2)}
    weights = WeightVersion(5, ("a",), ("float32",), ((1,),), "", None, senders=ranks)
    gpu_weights.connect(backend, ranks, workers, tensor_parallel=1)
    going = gpu_weights.send(backend, weights, workers)
    found = dict(zip(going.values(), ray.get(list(going), timeout=90), strict=False))
    if backend == "nccl":
        assert found[0] == found[1] == ["of 5"]
        assert list(going.values()).count(None) == 3
    else:  # each from the rank on its GPU; the third rank has no engine and only takes part
        assert found[0] == ["0.1", "0.2", "0.3"]
        assert found[1] == ["1.1", "1.2", "1.3"]
        assert found[None] == 2


def test_an_actor_that_cannot_connect_ends_the_handshake(ray_env: dict[str, str]) -> None:
    """The rank would wait for it."""

    class Broken(Actor):
        async def init_transfer(self, info: dict) -> None:
            raise ValueError("no NCCL here")

    rank = start_actor(Rank, {"num_cpus": 0}, 0)
    broken = start_actor(Broken, {"num_cpus": 0})
    with pytest.raises(ValueError, match="no NCCL here"):
        gpu_weights.connect("nccl", (rank,), {0: broken}, tensor_parallel=1)
