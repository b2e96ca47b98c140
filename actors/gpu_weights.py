"""The driver's side of cluster.weight_backend = nccl and ipc: weights go from GPU to GPU.

nccl: the learner's first rank broadcasts, and all engines receive. ipc: rollout actor i shares a
GPU with rank i and asks it for one buffer after another. Either way all ranks take part, because
they may have to gather their shards, and the set of actors is fixed.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import ray

from cluster.refs import Handle, Ref, get
from cluster.weights import WeightVersion
from models.engine.weight_senders import ipc_handshake, nccl_handshakes


class Sender(Protocol):
    """A learner rank, as far as a transfer needs it."""

    def address(self) -> tuple[str, int]: ...

    def connect(self, master: dict[str, Any]) -> None: ...

    def send(self) -> None: ...

    def next_message(self) -> dict[str, Any] | None: ...


class Receiver(Protocol):
    """A rollout actor, as far as a transfer needs it."""

    async def init_transfer(self, info: dict[str, Any]) -> None: ...

    async def take(self, weights: WeightVersion) -> int: ...


def connect(
    backend: str,
    senders: Sequence[Handle[Sender]],
    workers: Mapping[int, Handle[Receiver]],
    tensor_parallel: int,
) -> None:
    """Do the handshake, once, before the first version is sent.

    Raises:
        The first error of a process in the handshake.
    """
    joining: list[Ref[None]] = []
    if backend == "ipc":
        for worker in workers.values():
            joining.append(worker.call(Receiver.init_transfer, ipc_handshake()))
    else:
        host, port = get(senders[0].call(Sender.address))
        master, infos = nccl_handshakes(host, port, len(workers), tensor_parallel)
        for worker, info in zip(workers.values(), infos, strict=True):
            joining.append(worker.call(Receiver.init_transfer, info))
        joining.append(senders[0].call(Sender.connect, master))

    # One by one: when a process fails, the others wait for it, and its error must come first.
    while joining:
        [done], joining = ray.wait(joining, num_returns=1)
        get(done)


def send(
    backend: str, weights: WeightVersion, workers: Mapping[int, Handle[Receiver]]
) -> dict[Ref[Any], int | None]:
    """Start the transfer of a version.

    Returns:
        All calls of the transfer, each with the number of its rollout actor (None: a learner rank).
    """
    calls: dict[Ref[Any], int | None] = {}
    if backend == "ipc":
        for number, worker in workers.items():
            own = replace(weights, senders=(weights.senders[number],))
            calls[worker.call(Receiver.take, own)] = number
        # Ranks without an engine on their GPU only take part in gathering the shards.
        sending = [rank for number, rank in enumerate(weights.senders) if number not in workers]
    else:
        without_senders = replace(weights, senders=())
        for number, worker in workers.items():
            calls[worker.call(Receiver.take, without_senders)] = number
        sending = list(weights.senders)

    for rank in sending:
        calls[rank.call(Sender.send)] = None
    return calls


async def messages(rank: Handle[Sender]) -> AsyncIterator[dict[str, Any]]:
    """In a rollout actor: yield the buffers of the rank on its GPU (ipc).

    A request for the next buffer confirms the last one.
    """
    while True:
        message = await rank.call(Sender.next_message)
        if message is None:
            return
        yield message
