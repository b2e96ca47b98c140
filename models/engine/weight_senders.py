"""The sending side of vLLM's GPU weight backends, on a learner rank.

With nccl, engines have GPUs of their own: the learner's first rank broadcasts, all engines receive.
With ipc, an engine and a learner rank share a GPU: the engine copies from the rank's memory, a
buffer at a time. There is no checksum: NCCL and the driver answer for the bytes.

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

BUFFER_BYTES = 1 << 30

# For nccl: one buffer is filled while the other is sent.
BUFFERS = 2

# Names and whole tensors on the rank's GPU.
Tensors = Iterable[tuple[str, Tensor]]


def nccl_handshakes(
    host: str,
    port: int,
    engines: int,
    tensor_parallel: int,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the arguments with which learner and engines join one process group.

    Rank 0 is the learner's first rank; the workers of engine after engine follow.

    Returns:
        The arguments of the learner's first rank, and those of each engine.
    """
    master = {
        "master_address": host,
        "master_port": port,
        "world_size": 1 + engines * tensor_parallel,
    }
    # Both sides cut the stream by these sizes. Without them vLLM's engines would take tensor by
    # tensor.
    wire = {
        "packed": True,
        "packed_buffer_size_bytes": BUFFER_BYTES,
        "packed_num_buffers": BUFFERS,
    }
    of_engines = []
    for engine in range(engines):
        rank = 1 + engine * tensor_parallel
        of_engines.append(master | wire | {"rank_offset": rank})
    return master, of_engines


def ipc_handshake() -> dict[str, Any]:
    """Return an engine's arguments for ipc: no group to join, only the packing to agree on."""
    return {"packed": True}


def make(backend: str) -> NcclSender | IpcSender:
    """Return the sender of a backend.

    Raises:
        ValueError: no CUDA.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"cluster.weight_backend={backend} needs GPUs; use object_store")
    return NcclSender() if backend == "nccl" else IpcSender()


class NcclSender:
    """Broadcasts from the first learner rank. All ranks take part in gathering the tensors."""

    def __init__(self) -> None:
        self.group: Any = None

    def connect(self, master: dict[str, Any]) -> None:
        """Join the process group; on the first rank only. Waits for the engines to join."""
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        self.group = trainer_init(master)

    def send(self, tensors: Tensors) -> None:
        """Broadcast the tensors. Waits for the engines to receive them."""
        if self.group is None:
            drain(tensors)
            return
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        # The buffers are filled on other streams, and these do not wait for the optimizer's.
        torch.cuda.synchronize()
        packed_nccl_broadcast_producer(
            iter(tensors),
            self.group,
            src=0,
            post_iter_func=itemgetter(1),
            buffer_size_bytes=BUFFER_BYTES,
            num_buffers=BUFFERS,
        )


class IpcSender:
    """Shares the memory of one learner rank with the engine on its GPU."""

    def messages(self, tensors: Tensors, largest: int) -> Iterator[dict[str, Any]]:
        """Yield arguments of the engine's `update_weights`, one buffer each.

        The buffer is used again: ask for the next message only after the engine has loaded the last
        one.

        Args:
            tensors: the weights.
            largest: bytes of the largest tensor; the buffer holds at least this many.
        """
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        # Free the last version's buffer; the engine has let it go.
        torch.cuda.ipc_collect()
        device = torch.cuda.current_device()
        gpu = str(torch.cuda.get_device_properties(device).uuid)
        size = max(BUFFER_BYTES, largest)
        for chunk in packed_ipc_producer(iter(tensors), gpu, itemgetter(1), size):
            yield ipc_message(chunk)

    def send(self, tensors: Tensors) -> None:
        """On a GPU without an engine: only take part in the gathering."""
        drain(tensors)


def ipc_message(chunk: Any) -> dict[str, Any]:
    """Return the message of a `vllm...packed_tensor.PackedIpcChunk`.

    Handles are pickled: they hold types, and vLLM's own wire format refuses these.
    """
    handles = pickle.dumps(chunk.ipc_handle)
    return {
        "names": chunk.names,
        "dtype_names": chunk.dtype_names,
        "shapes": chunk.shapes,
        "tensor_sizes": chunk.tensor_sizes,
        "ipc_handles_pickled": base64.b64encode(handles).decode(),
    }


def drain(tensors: Tensors) -> None:
    """Gather every tensor and send none."""
    for _ in tensors:
        pass
