"""From the learner's ranks to the rollout actors over GPUs: the driver's side of cluster.weight_backend = nccl and ipc.

nccl: engines receive while the learner's first rank broadcasts. ipc: actor i and rank i share a GPU, and the actor asks
its rank for one buffer after another; when all have asked for the last, all is loaded. Either way all ranks take part,
because they may have to gather their shards. Which actors there are is fixed. Knows no engine and no optimizer.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import ray

from cluster.weights import WeightVersion
from models.engine.weight_senders import ipc_handshake, nccl_handshakes


def connect(
    backend: str, senders: tuple[Any, ...], workers: Mapping[int, Any], tensor_parallel: int
) -> None:
    """The handshake, once, before the first version is sent. Raises the first error of anyone who takes part."""
    if backend == "ipc":
        joining = [actor.init_transfer.remote(ipc_handshake()) for actor in workers.values()]
    else:
        host, port = ray.get(senders[0].address.remote())
        master, infos = nccl_handshakes(host, port, len(workers), tensor_parallel)
        joining = [
            actor.init_transfer.remote(info)
            for actor, info in zip(workers.values(), infos, strict=True)
        ]
        joining.append(senders[0].connect.remote(master))
    while joining:  # not all at once: when one fails, the others wait for it
        done, joining = ray.wait(joining, num_returns=1)
        ray.get(done)


def send(backend: str, weights: WeightVersion, workers: Mapping[int, Any]) -> dict[Any, int | None]:
    """Starts the transfer. Returns all that has to end well: actors that take (their number) and ranks that send."""
    if backend == "ipc":
        taking = {
            actor.take.remote(replace(weights, senders=(weights.senders[number],))): number
            for number, actor in workers.items()
        }
        sending = [rank for number, rank in enumerate(weights.senders) if number not in workers]
    else:
        told = replace(weights, senders=())
        taking = {actor.take.remote(told): number for number, actor in workers.items()}
        sending = list(weights.senders)
    return {**taking, **{rank.send.remote(): None for rank in sending}}


async def messages(rank: Any) -> AsyncIterator[dict[str, Any]]:
    """ipc, in a rollout actor: the buffers of the rank on its GPU. To ask for the next says that the last is loaded."""
    while (message := await rank.next_message.remote()) is not None:
        yield message
