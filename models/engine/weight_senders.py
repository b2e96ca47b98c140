"""The sending side of vLLM's GPU weight backends: what a learner rank does, and the messages that engines are given.

nccl: engines on GPUs of their own; the learner's first rank broadcasts, all engines receive. ipc: an engine and a
learner rank share a GPU; the engine copies from the rank's memory, a buffer at a time. The bytes do not pass through
us, so there is no checksum: NCCL and the driver answer for them. Knows no Ray and no optimizer.

Not yet run on a GPU: on CPU the messages and their order are tested, not the transfer.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

BUFFER_BYTES = 1 << 30  # of a packed buffer
BUFFERS = 2  # nccl: one is filled while the other is sent

Tensors = Iterable[tuple[str, Tensor]]  # whole ones, on the rank's GPU


def nccl_handshakes(
    host: str, port: int, engines: int, tensor_parallel: int
) -> tuple[dict[str, Any], list[Any]]:
    """Who is who in the process group: rank 0 is the learner's first, then come the workers of engine after engine.

    Returns:
        what the learner's first rank connects with, and what each engine is given.
    """
    master = {
        "master_address": host,
        "master_port": port,
        "world_size": 1 + engines * tensor_parallel,
    }
    # Both sides cut the stream by these sizes; vLLM's engines would take tensor by tensor if they were not told.
    wire = {"packed": True, "packed_buffer_size_bytes": BUFFER_BYTES, "packed_num_buffers": BUFFERS}
    return master, [
        master | wire | {"rank_offset": 1 + i * tensor_parallel} for i in range(engines)
    ]


def ipc_handshake() -> dict[str, Any]:
    """What an engine is given: there is nothing to join, only the packing to agree on."""
    return {"packed": True}


def make(backend: str) -> NcclSender | IpcSender:
    """Raises ValueError without CUDA."""
    if not torch.cuda.is_available():
        raise ValueError(f"cluster.weight_backend={backend} needs GPUs; use object_store")
    return NcclSender() if backend == "nccl" else IpcSender()


class NcclSender:
    """Of one learner rank. Only the first one is connected; the others take part in gathering what is sent."""

    def __init__(self) -> None:
        self.group: Any = None

    def connect(self, master: dict[str, Any]) -> None:
        """Waits for the engines, which must be told at the same time."""
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        self.group = trainer_init(master)

    def send(self, tensors: Tensors) -> None:
        """Waits for the engines, which must receive at the same time."""
        if self.group is None:
            drain(tensors)
            return
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        torch.cuda.synchronize()  # the buffers are filled on other streams, which do not wait for the optimizer's
        packed_nccl_broadcast_producer(
            iter(tensors),
            self.group,
            src=0,
            post_iter_func=itemgetter(1),
            buffer_size_bytes=BUFFER_BYTES,
            num_buffers=BUFFERS,
        )


class IpcSender:
    """Of one learner rank, for the engine on its GPU."""

    def messages(self, tensors: Tensors, largest: int) -> Iterator[dict[str, Any]]:
        """Arguments of the engine's `update_weights`, one buffer each.

        The buffer is used again: the next message may be asked for only when the engine has loaded the last.

        Args:
            largest: bytes of the largest tensor, which must fit into the buffer.
        """
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        torch.cuda.ipc_collect()  # the last version's buffer, which the engine has let go
        gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        size = max(BUFFER_BYTES, largest)
        for chunk in packed_ipc_producer(iter(tensors), gpu, itemgetter(1), size):
            yield ipc_message(chunk)

    def send(self, tensors: Tensors) -> None:
        """On a GPU without an engine: only takes part in the gathering."""
        drain(tensors)


def ipc_message(chunk: Any) -> dict[str, Any]:
    """Of a `vllm...packed_tensor.PackedIpcChunk`. Handles hold types, which vLLM's own wire format refuses: pickled."""
    return {
        "names": chunk.names,
        "dtype_names": chunk.dtype_names,
        "shapes": chunk.shapes,
        "tensor_sizes": chunk.tensor_sizes,
        "ipc_handles_pickled": base64.b64encode(pickle.dumps(chunk.ipc_handle)).decode(),
    }


def drain(tensors: Tensors) -> None:
    for _ in tensors:
        pass
