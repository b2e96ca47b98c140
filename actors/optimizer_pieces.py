"""Weights and moments of a DeepSpeed engine in safetensors, for any number of ranks and ZeRO stage.

    optimizer/rank_<r>.safetensors   "<kind>/<start>/<parameter>": float32 elements, flattened

Every rank writes the pieces that it holds: elements `start` to `start + length` of a flattened
parameter. A rank of another run reads whatever covers its own pieces. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """The part of one trained parameter on this rank.

    Attributes:
        start: Number of its first element in the flattened parameter.
        length: Number of elements.
        flat: The tensor that the optimizer updates.
        offset: Number of its first element in `flat`.
    """

    start: int
    length: int
    flat: Tensor
    offset: int

    def part(self, of_flat: Tensor) -> Tensor:
        """Return the elements of the piece in a tensor of the shape of `flat`, as a view."""
        return of_flat.detach().view(-1).narrow(0, self.offset, self.length)


@dataclass(frozen=True)
class Saved:
    """A piece in a file."""

    file: Path
    key: str
    start: int
    length: int


# Pieces in files, by kind and parameter.
Index = dict[tuple[str, str], list[Saved]]


def pieces(engine: DeepSpeedEngine) -> dict[str, Piece]:
    """Return the pieces on this rank by the names of their parameters."""
    stage = engine.zero_optimization_stage()
    found: dict[str, Piece] = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if stage == 0:
            piece: Piece | None = Piece(0, parameter.numel(), parameter, 0)
        elif stage == 3:
            piece = _sharded_piece(engine, parameter)
        else:
            piece = _flat_piece(engine, parameter)
        if piece is not None:
            found[name] = piece
    return found


def _flat_piece(engine: DeepSpeedEngine, parameter: Any) -> Piece | None:
    """Return the piece of ZeRO stages 1 and 2, where ranks share the parameters in one line."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    [flat] = engine.optimizer.optimizer.param_groups[mapping.param_group_index]["params"]
    whole = mapping.lp_fragment_address
    return Piece(whole.start, whole.numel, flat, mapping.hp_fragment_address.start)


def _sharded_piece(engine: DeepSpeedEngine, parameter: Any) -> Piece | None:
    """Return the piece of ZeRO stage 3, where every parameter is shared by all ranks."""
    zero = engine.optimizer
    group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
    start = torch.distributed.get_rank() * length
    # The last shards may be padded.
    inside = min(length, parameter.ds_numel - start)
    if inside <= 0:
        return None
    return Piece(start, inside, zero.fp32_partitioned_groups_flat[group], offset)


def base_optimizer(engine: DeepSpeedEngine) -> torch.optim.Optimizer:
    """Return AdamW itself, below ZeRO."""
    if engine.zero_optimization_stage() == 0:
        return engine.optimizer
    return engine.optimizer.optimizer


def snapshot(engine: DeepSpeedEngine, copy: bool = True) -> dict[str, Tensor]:
    """Return this rank's share of weights and moments on the CPU, by key.

    Args:
        copy: without it they are the optimizer's own memory where that is on the CPU.
    """
    rank = torch.distributed.get_rank()
    ranks = torch.distributed.get_world_size()
    states = base_optimizer(engine).state
    copies: dict[str, Tensor] = {}
    for number, (name, piece) in enumerate(pieces(engine).items()):
        # Without ZeRO every rank holds everything, and they take turns.
        if engine.zero_optimization_stage() == 0 and number % ranks != rank:
            continue
        tensors = {WEIGHTS: piece.flat}
        state = states.get(piece.flat, {})
        for moment in MOMENTS:
            if moment in state:
                tensors[moment] = state[moment]
        for kind, tensor in tensors.items():
            part = piece.part(tensor).to("cpu", torch.float32, copy=copy)
            copies[f"{kind}/{piece.start}/{name}"] = part
    return copies


def updates_of(engine: DeepSpeedEngine) -> int:
    """Return the number of AdamW's steps, without skipped ones."""
    counts = [int(state["step"]) for state in base_optimizer(engine).state.values() if state]
    return max(counts, default=0)


def restore(engine: DeepSpeedEngine, folder: Path, adam_steps: int) -> None:
    """Set weights and moments from the files of `snapshot`. Collective.

    Raises:
        ValueError: A parameter is missing in the files, as a whole or in part.
    """
    problem = ""
    try:
        _read(engine, folder, adam_steps)
    except ValueError as error:
        problem = str(error)
    # All ranks fail together: one alone would let the others wait for it.
    problems: list[str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    for found in problems:
        if found:
            raise ValueError(found)
    _use_new_weights(engine)


def _read(engine: DeepSpeedEngine, folder: Path, adam_steps: int) -> None:
    """Fill the optimizer's tensors on this rank."""
    index = _index(folder)
    optimizer = base_optimizer(engine)
    optimizer.state.clear()
    for name, piece in pieces(engine).items():
        _fill(piece.part(piece.flat), index, WEIGHTS, name, piece.start)
        if (MOMENTS[0], name) not in index:
            continue
        state = optimizer.state[piece.flat]
        if not state:
            state |= _fresh_state(engine, piece.flat, adam_steps)
        for moment in MOMENTS:
            _fill(piece.part(state[moment]), index, moment, name, piece.start)


def _fresh_state(engine: DeepSpeedEngine, flat: Tensor, adam_steps: int) -> dict[str, Any]:
    """Return a state of AdamW with moments of zero."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    step: Tensor | int = torch.tensor(float(adam_steps))
    if isinstance(base_optimizer(engine), DeepSpeedCPUAdam):
        step = adam_steps
    state: dict[str, Any] = {"step": step}
    for moment in MOMENTS:
        state[moment] = torch.zeros_like(flat, requires_grad=False)
    return state


def _use_new_weights(engine: DeepSpeedEngine) -> None:
    """Copy the optimizer's weights to the policy's own."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return
    zero = engine.optimizer
    if stage < 3:
        # The moments of before are gone, and DeepSpeed links the new ones at its next step.
        zero._hp_optimizer_states_linked = False
        zero.update_lp_params()
        return
    zero._partition_all_parameters()
    for group, flat in enumerate(zero.fp32_partitioned_groups_flat):
        zero.fp16_partitioned_groups_flat[group].data.copy_(flat.data)
        zero._unflatten_partitioned_parameters(group)
    # Small parameters stay whole on all ranks.
    persistent = zero.persistent_parameters
    if persistent:
        persistent[0].all_gather(persistent)


def _index(folder: Path) -> Index:
    """Return the pieces in all files, by kind and parameter."""
    index: Index = {}
    for file in sorted(folder.glob("rank_*.safetensors")):
        for saved in _pieces_in(file):
            kind, _, name = saved.key.split("/", 2)
            index.setdefault((kind, name), []).append(saved)
    return index


def _pieces_in(file: Path) -> Iterator[Saved]:
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                _, start, _ = key.split("/", 2)
                [length] = opened.get_slice(key).get_shape()
                yield Saved(file, key, int(start), length)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} holds no pieces of an optimizer: {error}") from error


def _fill(target: Tensor, index: Index, kind: str, name: str, start: int) -> None:
    """Fill a piece from whatever covers it.

    Raises:
        ValueError: Not all of it is in the files.
    """
    stop = start + target.numel()
    filled = 0
    for saved in index.get((kind, name), []):
        first = max(start, saved.start)
        last = min(stop, saved.start + saved.length)
        if first >= last:
            continue
        with safe_open(saved.file, framework="pt") as opened:
            whole = opened.get_slice(saved.key)
            part = whole[first - saved.start : last - saved.start]
        target[first - start : last - start].copy_(part)
        filled += last - first
    if filled != target.numel():
        raise ValueError(
            f"the checkpoint has {filled} of {target.numel()} elements of {name} ({kind}): it is "
            "of another policy, or lacks the file of a rank"
        )
