"""A DeepSpeed engine around the policy: configuration, start and guarded step.

Everything here is collective: all ranks call the same function at the same time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from torch import Tensor

from configs.schema import Config
from models.policy.policy import Policy

# Most policies do not draw, and need no SAM 2.
if TYPE_CHECKING:
    from models.policy.seg_policy import SegPolicy


def deepspeed_config(cfg: Config) -> dict[str, Any]:
    """Return DeepSpeed's configuration.

    Raises:
        ValueError: an unknown ZeRO stage.
    """
    learner = cfg.learner
    if learner.zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"learner.zero_stage={learner.zero_stage}: one of 0, 1, 2, 3")

    # bfloat16 needs the fp32 master weights that DeepSpeed keeps from stage 1 on, and so does
    # an offloaded optimizer. Stage 0 then runs as stage 1.
    half = cfg.policy.dtype == "bfloat16"
    least_stage = 1 if half or learner.offload_optimizer else 0
    zero: dict[str, Any] = {
        "stage": max(learner.zero_stage, least_stage),
        "overlap_comm": False,
        "reduce_bucket_size": int(5e7),
    }
    if learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}

    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        # A step has as many rows as its groups need. Each step() ends an accumulation,
        # whatever their number.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": zero,
        # Always given, because DeepSpeed's own default is 1.0 and not "off".
        "gradient_clipping": learner.grad_clip,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if half:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def start_engine(policy: Policy | SegPolicy, cfg: Config) -> DeepSpeedEngine:
    """Return an engine with AdamW: PyTorch's, or DeepSpeed's for the CPU if it is offloaded."""
    deepspeed.utils.logger.setLevel(logging.ERROR)
    learner = cfg.learner
    settings = {
        "lr": learner.lr,
        "betas": tuple(learner.betas),
        "weight_decay": learner.weight_decay,
    }
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if learner.offload_optimizer:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer = DeepSpeedCPUAdam(trained, adamw_mode=True, **settings)
    else:
        optimizer = torch.optim.AdamW(trained, **settings)

    engine, *_ = deepspeed.initialize(
        model=policy, optimizer=optimizer, config=deepspeed_config(cfg)
    )
    if engine.zero_optimization_stage() == 0:
        # `_plain_step` adds the gradients up, and looks at their norm before the weights move.
        engine.enable_backward_allreduce = False
    return engine


def step(engine: DeepSpeedEngine, lr: float, divisor: float) -> float | None:
    """Make one optimizer step on the accumulated gradients, divided by a count of the batch.

    Returns:
        The norm of the gradients before clipping. None if they are not finite: then they are
        dropped, and weights and moments stay as they were.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    if engine.zero_optimization_stage() == 0:
        return _plain_step(engine, divisor)

    with divided(engine.optimizer, divisor):
        engine.step()
    if engine.optimizer.overflow:
        return None
    return float(engine.get_global_grad_norm())


@contextmanager
def divided(optimizer: Any, divisor: float) -> Iterator[None]:
    """Let a step of one of DeepSpeed's optimizers divide the gradients first."""
    if isinstance(optimizer, BF16_Optimizer):
        # It knows no scale of the loss, and keeps the sums of the gradients in fp32.
        for gradient_M in optimizer.fp32_groups_gradients_flat:
            gradient_M.div_(divisor)
        yield
        return
    # The division of a scaled loss, which the norm, the clipping and the step know of.
    optimizer.loss_scale = divisor
    try:
        yield
    finally:
        optimizer.loss_scale = 1.0


def _plain_step(engine: DeepSpeedEngine, divisor: float) -> float | None:
    """As `step` for ZeRO stage 0. There DeepSpeed reports no norm and checks for no overflow."""
    if torch.distributed.get_world_size() > 1:
        engine.buffered_allreduce_fallback()
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    for gradient in gradients:
        gradient.div_(divisor)
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    if not math.isfinite(norm):
        engine.zero_grad()
        return None
    engine.step()
    return norm


def largest_weight(engine: DeepSpeedEngine) -> float:
    """Return the largest absolute value of the trained weights; infinite if one is not finite.

    With ZeRO-3 each rank looks at its own shards.
    """
    # One transfer from the device in all, not one for each parameter.
    largest: list[Tensor] = []
    for parameter in engine.module.parameters():
        weights = getattr(parameter, "ds_tensor", parameter).detach()
        if parameter.requires_grad and weights.numel():
            largest.append(weights.abs().max().float())
    if not largest:
        return 0.0
    found = torch.stack(largest).max().item()
    return found if math.isfinite(found) else math.inf
