"""Weights of a DeepSpeed engine as whole tensors, with adapters merged, whatever the ZeRO stage.

Everything here is collective: all ranks call the same function at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import deepspeed
import numpy as np
import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor

from cluster.weight_writer import Draft
from models.policy import lora


class Description(NamedTuple):
    """Names, dtypes (such as "float32") and shapes of tensors."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


def gathered(engine: DeepSpeedEngine, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Return a context with these parameters whole. Only ZeRO-3 has work to do."""
    sharded: list[Tensor] = []
    if engine.zero_optimization_stage() == 3:
        sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    return deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded))


def whole_state(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Return the policy's full `state_dict` on the CPU on rank 0; empty on other ranks.

    A tied head is included. Several names of one parameter share one tensor.
    """
    is_first = torch.distributed.get_rank() == 0
    state: dict[str, Tensor] = {}
    # By identity of the parameter: a tied head is gathered and copied once.
    copies: dict[int, Tensor] = {}
    for name, weight in lora.weights(engine.module.vlm).items():
        key = id(weight.base)
        if key not in copies:
            with gathered(engine, weight.parts):
                if is_first:
                    copies[key] = weight.merged().cpu().clone()
                else:
                    copies[key] = weight.base.new_empty(0)
        if is_first:
            state[name] = copies[key]
    return state


def published(engine: DeepSpeedEngine, adapter_alone: bool) -> dict[str, lora.Weight]:
    """Return the weights of a version, by the names that engines know them by.

    Args:
        adapter_alone: the adapter's factors under peft's names, not the weights with it merged.
    """
    if not adapter_alone:
        return lora.weights(engine.module.vlm)
    factors: dict[str, lora.Weight] = {}
    for name, tensor in lora.adapter(engine.module.vlm).items():
        factors[name] = lora.Weight(tensor)
    return factors


def hand_over(
    engine: DeepSpeedEngine,
    found: Mapping[str, lora.Weight],
    names: Collection[str],
    draft: Draft | None,
) -> None:
    """Put those weights that have these names into a draft, whole; None: only take part.

    Other names of the same parameter, such as those of a tied head, are among `names`.
    """
    is_sharded = engine.zero_optimization_stage() == 3
    # By identity of the parameter: a tied head is gathered once.
    shared: dict[int, list[str]] = {}
    for name in names:
        shared.setdefault(id(found[name].base), []).append(name)
    for same in shared.values():
        weight = found[same[0]]
        with gathered(engine, weight.parts):
            if draft is None:
                continue
            whole = weight.merged()
            for name in same:
                draft.put(name, whole)
            if is_sharded:
                # The gathered memory is given back at the end of the context.
                draft.settle()


def learning(found: Mapping[str, lora.Weight]) -> tuple[str, ...]:
    """Return the names of the weights that may change. Frozen parameters do not; buffers may."""
    names = []
    for name, weight in found.items():
        is_parameter = isinstance(weight.base, torch.nn.Parameter)
        if not is_parameter or any(part.requires_grad for part in weight.parts):
            names.append(name)
    return tuple(names)


def adapter_state(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Return the adapter's parameters on the CPU on rank 0, under peft's names.

    Empty on other ranks, and without LoRA.
    """
    is_first = torch.distributed.get_rank() == 0
    state: dict[str, Tensor] = {}
    for name, tensor in lora.adapter(engine.module.vlm).items():
        with gathered(engine, [tensor]):
            if is_first:
                state[name] = tensor.detach().cpu().clone()
    return state


def head_state(engine: DeepSpeedEngine) -> dict[str, np.ndarray]:
    """Return the mask head's weights in float32 on rank 0; empty on other ranks."""
    head = engine.module.head
    state: dict[str, np.ndarray] = {}
    with gathered(engine, list(head.parameters())):
        if torch.distributed.get_rank() == 0:
            for name, tensor in head.state_dict().items():
                state[name] = tensor.detach().float().cpu().numpy().copy()
    return state


def describe(found: Mapping[str, lora.Weight]) -> Description:
    """Describe weights without gathering them."""
    names: list[str] = []
    dtypes: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for name, weight in found.items():
        base = weight.base
        names.append(name)
        dtypes.append(str(base.dtype).removeprefix("torch."))
        # ZeRO-3 leaves an empty shard and remembers the shape.
        shapes.append(tuple(getattr(base, "ds_shape", base.shape)))
    return Description(tuple(names), tuple(dtypes), tuple(shapes))


def largest_bytes(engine: DeepSpeedEngine) -> int:
    """Return the size of the largest tensor of `whole_tensors`, in bytes."""
    found = describe(lora.weights(engine.module.vlm))
    largest = 0
    for dtype, shape in zip(found.dtypes, found.shapes, strict=True):
        size = math.prod(shape) * getattr(torch, dtype).itemsize
        largest = max(largest, size)
    return largest


def whole_tensors(engine: DeepSpeedEngine) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of `whole_state` one by one, on the device of the engine.

    All ranks must iterate: with ZeRO-3 each tensor is gathered when it is asked for.
    """
    is_sharded = engine.zero_optimization_stage() == 3
    for name, weight in lora.weights(engine.module.vlm).items():
        with gathered(engine, weight.parts):
            whole = weight.merged()
            if is_sharded:
                # The gathered memory is given back at the end of the context.
                whole = whole.clone()
        yield name, whole
