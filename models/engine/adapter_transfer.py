"""A backend for vLLM's weight-transfer API whose versions are adapters (LoRA) alone.

The policy's own weights stay as the engine has read them: the learner froze the same ones. vLLM
loads an adapter when a request asks for it, as a rule out of a folder. Here it is the one that was
taken last, out of memory, and before the first one that changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.worker_manager import WorkerLoRAManager

from models.engine.weight_transfer import SharedMemoryTransfer, SharedUpdate, verified


@dataclass(frozen=True)
class Adapter:
    """The factors of an adapter by peft's names, (R, I) and (O, R), as the learner has them."""

    tensors: dict[str, torch.Tensor]
    rank: int
    alpha: float


@dataclass
class AdapterUpdate(SharedUpdate):
    """All tensors of one adapter; `alpha / rank` scales its output."""

    rank: int
    alpha: float


# The newest adapter of each model in this process.
taken: WeakKeyDictionary[torch.nn.Module, Adapter] = WeakKeyDictionary()


class AdapterTransfer(SharedMemoryTransfer):
    """Takes an adapter; the next request makes vLLM load it."""

    update_info_cls = AdapterUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.coming: Adapter | None = None
        WorkerLoRAManager._load_adapter = load_taken  # type: ignore[method-assign]

    def receive_weights(self, update_info: SharedUpdate) -> None:
        """Copy the adapter.

        Raises:
            ValueError: a checksum is wrong; the engine keeps its old adapter.
        """
        assert isinstance(update_info, AdapterUpdate)
        # The learner writes over the file once it is taken.
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in verified(update_info, set(update_info.names), self.files).items():
            tensors[name] = tensor.clone()
        self.coming = Adapter(tensors, update_info.rank, update_info.alpha)

    def finish_weight_update(self) -> None:
        """Put the adapter in the place of the last one. vLLM then drops those it has loaded."""
        assert self.coming is not None, "it was received"
        taken[self.model] = self.coming


def load_taken(manager: WorkerLoRAManager, request: Any) -> LoRAModel:
    """Return the newest adapter as vLLM keeps it, in place of `_load_adapter`."""
    layers = manager._adapter_manager
    adapter = taken.get(layers.model)
    if adapter is None:
        return layers.create_dummy_lora(request.lora_int_id, 1, manager.embedding_modules)

    # vLLM scales `lora_B` in place.
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    names: Any = layers.model.hf_to_vllm_mapper
    loaded = LoRAModel.from_lora_tensors(
        request.lora_int_id,
        tensors,
        PEFTHelper(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=[]),  # type: ignore[arg-type]
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=names.get_rename_mapper(),
    )
    # vLLM would leave out in silence what it has no layer for.
    known = set(layers.modules)
    for parts in layers.packed_modules.values():
        known.update(parts)
    unknown = set(loaded.loras) - known
    assert not unknown, f"the adapter has layers that the engine has not: {sorted(unknown)}"
    return loaded
