"""The order of calls in a GPU transfer, over real processes.

Without a GPU the bytes go through a TCP store.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore

from actors import gpu_weights
from cluster.refs import results, start_actor
from cluster.weights import WeightVersion

LONG = timedelta(seconds=60)
NO_CPUS = {"num_cpus": 0}


class Rank:
    """A learner rank. Its rendezvous and transfer end only if the other side takes part."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.store: TCPStore | None = None
        self.world = 0
        self.asked = 0

    def address(self) -> tuple[str, int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]

    def connect(self, master: dict[str, Any]) -> None:
        self.world = master["world_size"]
        self.store = TCPStore(
            master["master_address"], master["master_port"], self.world, True, timeout=LONG
        )

    def send(self) -> int:
        if self.store is not None:
            self.store.set("weights", "of 5")
            self.store.wait([f"got {rank}" for rank in range(1, self.world)], LONG)
        return self.number

    def next_message(self) -> dict[str, Any] | None:
        self.asked += 1
        if self.asked > 3:
            return None
        return {"names": [f"{self.number}.{self.asked}"]}


class Actor:
    """A rollout actor, asynchronous like the real one."""

    async def init_transfer(self, info: dict[str, Any]) -> None:
        self.info = info
        if "rank_offset" in info:
            address = info["master_address"]
            port = info["master_port"]
            self.store = TCPStore(address, port, info["world_size"], False, timeout=LONG)

    async def take(self, weights: WeightVersion) -> list[str]:
        if weights.senders:
            rank = weights.senders[0]
            return [message["names"][0] async for message in gpu_weights.messages(rank)]
        self.store.wait(["weights"], LONG)
        self.store.set(f"got {self.info['rank_offset']}", "yes")
        return [self.store.get("weights").decode()]


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_receiving_and_sending_go_on_together(ray_env: dict[str, str], backend: str) -> None:
    ranks: Any = tuple(start_actor(Rank, NO_CPUS, number) for number in range(3))
    workers: dict[int, Any] = {number: start_actor(Actor, NO_CPUS) for number in range(2)}
    weights = WeightVersion(
        version=5,
        names=("a",),
        dtypes=("float32",),
        shapes=((1,),),
        senders=ranks,
    )

    gpu_weights.connect(backend, ranks, workers, tensor_parallel=1)
    calls = gpu_weights.send(backend, weights, workers)
    by_actor: dict[int, Any] = {}
    by_ranks: list[Any] = []
    for number, result in zip(calls.values(), results(list(calls)), strict=True):
        if number is None:
            by_ranks.append(result)
        else:
            by_actor[number] = result

    if backend == "nccl":
        assert by_actor == {0: ["of 5"], 1: ["of 5"]}
        assert by_ranks == [0, 1, 2]
    else:
        # Each actor takes from the rank on its GPU. The third rank has no engine there and only
        # takes part in gathering.
        assert by_actor == {0: ["0.1", "0.2", "0.3"], 1: ["1.1", "1.2", "1.3"]}
        assert by_ranks == [2]


class Broken(Actor):
    async def init_transfer(self, info: dict[str, Any]) -> None:
        raise ValueError("no NCCL here")


def test_an_actor_that_cannot_connect_ends_the_handshake(ray_env: dict[str, str]) -> None:
    """The rank would wait for it."""
    rank: Any = start_actor(Rank, NO_CPUS, 0)
    broken: Any = start_actor(Broken, NO_CPUS)
    with pytest.raises(ValueError, match="no NCCL here"):
        gpu_weights.connect("nccl", (rank,), {0: broken}, tensor_parallel=1)
