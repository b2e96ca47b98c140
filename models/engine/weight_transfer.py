"""A backend for vLLM's weight-transfer API: new weights come from a file in shared memory.

vLLM's own backends (nccl, ipc) need CUDA. This one runs everywhere and needs no process group, so
engines may come and go. It answers to the same calls: `init_weight_transfer_engine`,
`start_weight_update`, `update_weights`, `finish_weight_update`. vLLM finds it in each of its
processes through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from core.flat import layout, tensor_checksums, unflatten
from core.shared_file import readers_note
from models.engine.exact_logprobs import score_exactly
from models.engine.settings import ADAPTER_STORE, OBJECT_STORE

# Finds the message of damaged weights in the texts of vLLM's errors.
DAMAGE = r"weights: tensor '.*' is damaged in .*: nothing was loaded, it keeps its old weights"


@dataclass
class SharedInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class SharedUpdate(WeightTransferUpdateInfo):
    """All weights of one version.

    Attributes:
        names, dtype_names, shapes: description of the tensors.
        path: file that begins with the flat array (`core.flat`).
        checksums: of each tensor.
        engine: name of the engine for messages.
    """

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    path: str
    checksums: list[str]
    engine: str


class SharedMemoryTransfer(WeightTransferEngine[SharedInit, SharedUpdate]):
    """Loads what has changed in a version; touches the model only if the checksums are right."""

    init_info_cls = SharedInit
    update_info_cls = SharedUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.files = MappedFiles()
        # Checksums of the tensors in the model; empty where they are not known.
        self.loaded: dict[str, str] = {}
        self.loading: dict[str, str] = {}

    def init_transfer_engine(self, init_info: SharedInit) -> None:
        """Do nothing: there is no group to join."""

    def start_weight_update(self) -> None:
        """Do nothing: `receive_weights` starts the reload, after it has verified the bytes."""

    def receive_weights(self, update_info: SharedUpdate) -> None:
        """Load the weights.

        Raises:
            ValueError: a checksum is wrong; the engine keeps its old weights.
        """
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.loading = dict(zip(update_info.names, update_info.checksums, strict=True))
        changed = set()
        for name, checksum in self.loading.items():
            if self.loaded.get(name) != checksum:
                changed.add(name)
        tensors = verified(update_info, changed, self.files)

        self.loaded = {}
        loadable = [(name, tensors[name]) for name in with_siblings(self.loading, changed)]
        # On CPU vLLM repacks linear weights and leaves the parameters empty: only a layerwise
        # reload can fill them.
        initialize_layerwise_reload(self.model)
        self.model.load_weights(loadable)  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """End the layerwise reload. Layers that were left out keep what they have."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        # Not on purpose in vLLM's own use, so it warns of each such layer.
        reload_log = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
        level = reload_log.level
        reload_log.setLevel(logging.ERROR)
        try:
            finalize_layerwise_reload(self.model, self.model_config)
        finally:
            reload_log.setLevel(level)
        self.loaded = self.loading

    def shutdown(self) -> None:
        """Do nothing."""


class MappedFiles:
    """The last two files, mapped: the learner fills them in turns, and mapping takes its time."""

    def __init__(self) -> None:
        # By device and number. A mapped file keeps its number.
        self.maps: dict[tuple[int, int], np.ndarray] = {}

    def flat(self, path: str, size: int) -> np.ndarray:
        """Return the first bytes of a file."""
        found = os.stat(path)
        key = (found.st_dev, found.st_ino)
        flat = self.maps.pop(key, None)
        if flat is None or len(flat) != size:
            # torch needs a writable array; mode "c" is one and leaves the file alone.
            flat = np.memmap(path, dtype=np.uint8, mode="c", shape=(size,))
        self.maps[key] = flat
        for oldest in list(self.maps)[:-2]:
            del self.maps[oldest]
        return flat


class Marks:
    """The checksums that engines found in the tensors of a file, one after another in a note."""

    # Digits of a checksum; zeros where nobody has looked yet.
    SIZE = 32

    def __init__(self, note: bytearray, tensors: int) -> None:
        note += bytes(self.SIZE * tensors - len(note))
        self.note = note

    def has(self, number: int, checksum: str) -> bool:
        """Return whether an engine has found this checksum in a tensor."""
        return self.note[self._span(number)] == checksum.encode()

    def put(self, number: int, checksum: str) -> None:
        """Note the checksum found in a tensor."""
        self.note[self._span(number)] = checksum.encode()

    def _span(self, number: int) -> slice:
        return slice(number * self.SIZE, (number + 1) * self.SIZE)


def verified(
    update: SharedUpdate, changed: Collection[str], files: MappedFiles
) -> dict[str, torch.Tensor]:
    """Return the tensors in the file of an update.

    Raises:
        ValueError: a changed one does not have its checksum.
    """
    spans, size = layout(update.dtype_names, update.shapes)
    flat = files.flat(update.path, size)
    described = (update.names, update.dtype_names, update.shapes)
    tensors = dict(unflatten(torch.from_numpy(flat), *described))
    # All engines of a machine map the same memory: the first one verifies it for the others.
    with readers_note(update.path, size) as note:
        marks = Marks(note, len(spans))
        unknown: list[int] = []
        for number, (name, checksum) in enumerate(zip(update.names, update.checksums, strict=True)):
            if name in changed and not marks.has(number, checksum):
                unknown.append(number)
        found = tensor_checksums(flat, [spans[number] for number in unknown])
        for number, checksum in zip(unknown, found, strict=True):
            if checksum != update.checksums[number]:
                raise ValueError(
                    f"weights: tensor {update.names[number]!r} is damaged in {update.engine}: "
                    "nothing was loaded, it keeps its old weights"
                )
            marks.put(number, checksum)
    return tensors


def with_siblings(names: Iterable[str], changed: Iterable[str]) -> list[str]:
    """Return the changed names with those of the same block, in order.

    vLLM packs several layers of a block into one, such as `q_proj` and `k_proj`, and can load that
    one only as a whole.
    """
    blocks = {name.rsplit(".", 2)[0] for name in changed}
    return [name for name in names if name.rsplit(".", 2)[0] in blocks]


def register() -> None:
    """Register the backends: the plug-in's entry point. vLLM may call it several times."""
    if OBJECT_STORE not in WeightTransferEngineFactory._registry:
        from models.engine.adapter_transfer import AdapterTransfer

        WeightTransferEngineFactory.register_engine(OBJECT_STORE, SharedMemoryTransfer)
        WeightTransferEngineFactory.register_engine(ADAPTER_STORE, AdapterTransfer)
    keep_images()
    score_exactly()
    end_with_parent()
    lock_in_this_process()


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


def lock_in_this_process() -> None:
    """Let progress bars, and vLLM's executor of a single worker, lock threads only.

    In a process that was spawned, a lock between processes is a file in /dev/shm, which a killed
    engine would leave there.
    """
    import vllm.v1.executor.uniproc_executor as executor

    tqdm.set_lock(threading.RLock())
    executor.Lock = threading.Lock  # type: ignore[attr-defined]


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
        OBJECT_STORE: {"path", "checksums", "engine"},
        ADAPTER_STORE: {"path", "checksums", "engine", "rank", "alpha"},
        "nccl": set(),
    }
    if backend not in keys:
        raise ValueError(f"cluster.weight_backend={backend!r}: choose one of {', '.join(keys)}")
    assert keys[backend] <= set(extra), f"{backend} needs {keys[backend]}, got {set(extra)}"
    return {"names": names, "dtype_names": dtypes, "shapes": shapes, **extra}
