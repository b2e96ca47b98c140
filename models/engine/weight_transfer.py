"""A backend for vLLM's weight-transfer API: new weights come from a file in shared memory.

vLLM's own backends (nccl, ipc) need CUDA. This one runs everywhere and needs no process group, so
engines may come and go. It answers to the same calls: `init_weight_transfer_engine`,
`start_weight_update`, `update_weights`, `finish_weight_update`. vLLM finds it in each of its
processes through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from core.flat import checksum, unflatten
from models.engine.exact_logprobs import score_exactly
from models.engine.settings import OBJECT_STORE, SHARED_NAME


@dataclass
class SharedInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class SharedUpdate(WeightTransferUpdateInfo):
    """All weights of one version.

    Attributes:
        names, dtype_names, shapes: description of the tensors.
        path: file with the flat array (`core.flat`).
        checksum: SHA-256 of the file.
    """

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    path: str
    checksum: str


class SharedMemoryTransfer(WeightTransferEngine[SharedInit, SharedUpdate]):
    """Loads a whole version at once; touches the running model only if the checksum is right."""

    init_info_cls = SharedInit
    update_info_cls = SharedUpdate

    def init_transfer_engine(self, init_info: SharedInit) -> None:
        """Do nothing: there is no group to join."""

    def start_weight_update(self) -> None:
        """Do nothing: `receive_weights` starts the reload, after it has verified the bytes."""

    def receive_weights(self, update_info: SharedUpdate) -> None:
        """Load the weights.

        Raises:
            ValueError: the checksum is wrong; the engine keeps its old weights.
        """
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        # torch needs a writable array; mode "c" is one and leaves the file alone.
        flat = np.memmap(update_info.path, dtype=np.uint8, mode="c")
        if checksum(flat) != update_info.checksum:
            raise ValueError(
                f"weights in {update_info.path} are damaged: not loaded, "
                "the engine keeps its old ones"
            )
        tensors = unflatten(
            torch.from_numpy(flat),
            update_info.names,
            update_info.dtype_names,
            update_info.shapes,
        )
        loadable = list(tensors)
        # On CPU vLLM repacks linear weights and leaves the parameters empty: only a layerwise
        # reload can fill them.
        initialize_layerwise_reload(self.model)
        self.model.load_weights(loadable)  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """End the layerwise reload."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Do nothing."""


def register() -> None:
    """Register the backend: the plug-in's entry point. vLLM may call it several times."""
    if OBJECT_STORE not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(OBJECT_STORE, SharedMemoryTransfer)
    keep_images()
    score_exactly()
    end_with_parent()


@functools.cache
def end_with_parent() -> None:
    """Make an engine's own process end with the actor that started it, whatever ended the actor.

    A killed actor cannot end its children. vLLM 0.32 would leave such an engine waiting for
    requests, with its memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def keep_images() -> None:
    """Make vLLM's scheduler send a request's images even if the prefix cache holds their tokens.

    vLLM 0.32 leaves the pixels out then, and does not send them later. Taking weights in flight
    resets both caches and preempts running requests; such a request would have no pixels to start
    again from, and the engine would die ("Expected number of multimodal embeddings to match number
    of input items").
    """
    import vllm.v1.core.sched.output as scheduler_output

    def keep_all(mm_features: Any, *args: Any, **kwargs: Any) -> Any:
        return mm_features

    scheduler_output.strip_covered_mm_data = keep_all


def write_shared(flat: np.ndarray) -> BinaryIO:
    """Write the flat array into a new file in memory, for all workers of one engine to read.

    It has no name in any folder, so it is gone once it is closed, or this process killed.
    """
    file = os.fdopen(os.memfd_create(SHARED_NAME), "wb")
    try:
        file.write(flat.data)
        file.flush()
    except OSError:
        file.close()
        raise
    return file


def path_of(file: BinaryIO) -> str:
    """Return the path under which other processes of this user open a file without a name."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def update_info(
    backend: str,
    names: list[str],
    dtypes: list[str],
    shapes: list[list[int]],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Return the argument of `update_weights`: a description of the tensors, and `extra`.

    The messages of ipc come from the learner (`models.engine.weight_senders.ipc_message`).
    """
    keys: dict[str, set[str]] = {
        OBJECT_STORE: {"path", "checksum"},
        "nccl": set(),
    }
    if backend not in keys:
        raise ValueError(f"cluster.weight_backend={backend!r}: choose one of {', '.join(keys)}")
    assert keys[backend] <= set(extra), f"{backend} needs {keys[backend]}, got {set(extra)}"
    return {"names": names, "dtype_names": dtypes, "shapes": shapes, **extra}
