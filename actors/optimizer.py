"""A DeepSpeed engine round the policy: configuration, guarded step, whole weights, checkpoint.

Everything here is collective: every rank calls the same function at the same time. Knows no rows and no rewards.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config, LearnerConfig
from models.policy import lora
from models.policy.policy import Policy

if TYPE_CHECKING:
    from models.policy.seg_policy import SegPolicy

SCHEDULES = ("constant", "linear", "cosine")
_TAG = "state"  # of DeepSpeed's checkpoint folder


def learning_rate(update: int, total: int, cfg: LearnerConfig) -> float:
    """Of optimizer step `update` (from 0) of `total`: linear warm-up, then constant, or down to 0 at the end."""
    if cfg.schedule not in SCHEDULES:
        raise ValueError(f"learner.schedule={cfg.schedule!r}: one of {', '.join(SCHEDULES)}")
    if update < cfg.warmup_steps:
        return cfg.lr * (update + 1) / cfg.warmup_steps
    done = min(1.0, (update - cfg.warmup_steps) / max(1, total - cfg.warmup_steps))
    shape = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    return cfg.lr * shape[cfg.schedule]


def deepspeed_config(cfg: Config) -> dict[str, Any]:
    """bfloat16 needs the fp32 master weights that DeepSpeed keeps from ZeRO-1 on, so stage 0 then runs as stage 1."""
    learner = cfg.learner
    half = cfg.policy.dtype == "bfloat16"
    if learner.zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"learner.zero_stage={learner.zero_stage}: one of 0, 1, 2, 3")
    stage = max(learner.zero_stage, int(half or learner.offload_optimizer))
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "reduce_bucket_size": int(5e7)}
    if learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return (
        {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # a step has as many rows as its groups need: each step() ends an accumulation, whatever their number
            "managed_gradient_accumulation": False,
            "zero_optimization": zero,
            "gradient_clipping": learner.grad_clip,  # explicit: DeepSpeed's own default is 1.0, not "off"
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        | ({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}} if half else {})
    )


def start(policy: Policy | SegPolicy, cfg: Config) -> Any:
    """The engine. AdamW is PyTorch's, or DeepSpeed's CPU one when the optimizer is offloaded."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    settings = {
        "lr": cfg.learner.lr,
        "betas": tuple(cfg.learner.betas),
        "weight_decay": cfg.learner.weight_decay,
    }
    trained = [p for p in policy.parameters() if p.requires_grad]
    if cfg.learner.offload_optimizer:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer = DeepSpeedCPUAdam(trained, adamw_mode=True, **settings)
    else:
        optimizer = torch.optim.AdamW(trained, **settings)
    engine, *_ = deepspeed.initialize(
        model=policy, optimizer=optimizer, config=deepspeed_config(cfg)
    )
    if engine.zero_optimization_stage() == 0:
        engine.enable_backward_allreduce = (
            False  # `step` does it, and looks at the norm before the weights move
        )
    return engine


def step(engine: Any, lr: float) -> float | None:
    """One optimizer step on the accumulated gradients; returns their norm before clipping.

    None: the gradients are not finite; they are dropped and weights and moments stay as they were.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    if engine.zero_optimization_stage() == 0:
        return _plain_step(engine)
    engine.step()
    if engine.optimizer.overflow:
        return None
    return float(engine.get_global_grad_norm())


def _plain_step(engine: Any) -> float | None:
    """Stage 0 reports no norm and looks for no overflow: both are done here."""
    if torch.distributed.get_world_size() > 1:
        engine.buffered_allreduce_fallback()
    norms = [p.grad.norm() for p in engine.module.parameters() if p.grad is not None]
    norm = float(torch.stack(norms).norm())
    if not math.isfinite(norm):
        engine.zero_grad()
        return None
    engine.step()
    return norm


def gathered(engine: Any, parts: list[Tensor]) -> Any:
    """A context in which these parameters are whole; only ZeRO-3 has anything to do."""
    import deepspeed

    sharded = (
        [p for p in parts if hasattr(p, "ds_id")] if engine.zero_optimization_stage() == 3 else []
    )
    return deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded))


def whole_state(engine: Any) -> dict[str, Tensor]:
    """The policy's full `state_dict` on the CPU, a tied head included, adapters merged; on rank 0, empty elsewhere.

    Tensors that are one parameter stay one object.
    """
    first = torch.distributed.get_rank() == 0
    state: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}
    for name, weight in lora.weights(engine.module.vlm).items():
        if id(weight.base) not in copies:
            with gathered(engine, weight.parts):
                copies[id(weight.base)] = (
                    weight.merged().cpu().clone() if first else weight.base.new_empty(0)
                )
        if first:
            state[name] = copies[id(weight.base)]
    return state


def adapter_state(engine: Any) -> dict[str, Tensor]:
    """The adapter's parameters on the CPU, in peft's names; on rank 0, empty elsewhere and without LoRA."""
    state: dict[str, Tensor] = {}
    for name, tensor in lora.adapter(engine.module.vlm).items():
        with gathered(engine, [tensor]):
            if torch.distributed.get_rank() == 0:
                state[name] = tensor.detach().cpu().clone()
    return state


def head_state(engine: Any) -> dict[str, np.ndarray]:
    """The mask head's weights, float32, of a policy that draws; on rank 0, empty elsewhere."""
    head = engine.module.head
    with gathered(engine, list(head.parameters())):
        first = torch.distributed.get_rank() == 0
        return (
            {name: t.detach().float().cpu().numpy().copy() for name, t in head.state_dict().items()}
            if first
            else {}
        )


def describe(engine: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Names, dtypes (as in "float32") and shapes of what `whole_tensors` yields, without gathering it."""
    state = {name: weight.base for name, weight in lora.weights(engine.module.vlm).items()}
    dtypes = tuple(str(t.dtype).removeprefix("torch.") for t in state.values())
    return (
        tuple(state),
        dtypes,
        tuple(tuple(getattr(t, "ds_shape", t.shape)) for t in state.values()),
    )


def largest_bytes(engine: Any) -> int:
    """Of the largest tensor of `whole_tensors`."""
    _, dtypes, shapes = describe(engine)
    return max(
        math.prod(shape) * getattr(torch, dtype).itemsize
        for dtype, shape in zip(dtypes, shapes, strict=True)
    )


def whole_tensors(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """What `whole_state` holds, tensor by tensor, where they are computed with.

    On every rank, and all must iterate: with ZeRO-3 each tensor is gathered when it is asked for.
    """
    sharded = engine.zero_optimization_stage() == 3
    for name, weight in lora.weights(engine.module.vlm).items():
        with gathered(engine, weight.parts):
            whole = (
                weight.merged().clone() if sharded else weight.merged()
            )  # what was gathered is given back
        yield name, whole


def save(engine: Any, folder: Path, source: Path, updates: int) -> None:
    """folder/policy (Hugging Face, safetensors, with the processor's files; adapters merged), folder/deepspeed,
    folder/rng_<rank>.pt, with LoRA folder/adapter in peft's format, and folder/policy/mask_head of a policy that
    draws."""
    state = whole_state(engine)
    adapter = adapter_state(engine)
    rank = torch.distributed.get_rank()
    if rank == 0:
        vlm = engine.module.vlm
        vlm.save_pretrained(folder / "policy", state_dict=state)
        copy_processor(source, folder / "policy")
        if adapter:
            lora.write(vlm, adapter, folder / "adapter")
        facts = {
            "updates": updates,
            "ranks": torch.distributed.get_world_size(),
            "lora_rank": lora.rank(vlm),
        }
        facts["zero_stage"] = engine.zero_optimization_stage()
        (folder / "learner.json").write_text(json.dumps(facts))
    head = getattr(engine.module, "head", None)
    if head is not None:
        with gathered(engine, list(head.parameters())):
            if rank == 0:
                head.save(folder / "policy")
    engine.save_checkpoint(str(folder / "deepspeed"), tag=_TAG)
    torch.save(random_states(), folder / f"rng_{rank}.pt")
    torch.distributed.barrier()


def copy_processor(source: Path, target: Path) -> None:
    """Tokenizer, chat template and processor settings are as they were: their files are copied, not written anew."""
    import shutil

    for file in source.iterdir():
        weights = file.name.startswith(("model", "pytorch_model")) or file.suffix in (
            ".safetensors",
            ".bin",
        )
        if file.is_file() and not weights and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


def load(engine: Any, folder: Path) -> int:
    """Restores what `save` wrote and returns the number of optimizer steps done.

    Raises ValueError if the checkpoint is of another architecture, number of ranks, ZeRO stage or adapter.
    """
    check_architecture(engine.module.vlm.config, folder / "policy")
    facts = json.loads((folder / "learner.json").read_text())
    here = {
        "ranks": ("learner.world_size", torch.distributed.get_world_size()),
        "zero_stage": ("learner.zero_stage", engine.zero_optimization_stage()),
        "lora_rank": ("learner.lora_rank", lora.rank(engine.module.vlm)),
    }
    for name, (setting, value) in here.items():
        if facts.get(name, 0) != value:
            raise ValueError(
                f"checkpoint {folder} was written with {setting}={facts[name]}, this run has {value}"
            )
    engine.load_checkpoint(str(folder / "deepspeed"), tag=_TAG)
    restore_random(torch.load(folder / f"rng_{torch.distributed.get_rank()}.pt", weights_only=True))
    return int(facts["updates"])


def check_architecture(config: Any, folder: Path) -> None:
    """Raises ValueError, naming the first differences, if the policy in `folder` has other shapes than `config`."""
    from transformers import AutoConfig

    ours = _shapes(config.to_dict())
    theirs = _shapes(AutoConfig.from_pretrained(folder).to_dict())
    differing = [k for k in sorted(ours | theirs) if ours.get(k) != theirs.get(k)]
    wrong = [f"{k} is {theirs.get(k)}, here {ours.get(k)}" for k in differing]
    if wrong:
        raise ValueError(
            f"checkpoint {folder} holds another architecture than policy.path ({'; '.join(wrong[:4])}): "
            "resume with the policy it was trained from, or start a new run"
        )


def _shapes(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the shapes of the weights: the model's type and its sizes and counts."""
    sizes = ("_size", "_heads", "_layers", "depth", "model_type", "tie_word_embeddings")
    parts = {
        "": config,
        "text_config.": config["text_config"],
        "vision_config.": config["vision_config"],
    }
    return {
        prefix + k: v
        for prefix, part in parts.items()
        for k, v in part.items()
        if str(k).endswith(sizes)
    }


def random_states() -> dict[str, Any]:
    """Of Python, NumPy and PyTorch, as plain numbers and tensors (loadable with `weights_only`)."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": (version, list(numbers), gauss),
        "numpy": (
            name,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            position,
            has_gauss,
            cached,
        ),
    }


def restore_random(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
