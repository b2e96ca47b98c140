"""The models of a learner rank as the configuration says: the policy, and the reference if the KL term is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from configs.schema import Config
from models.dialogue import allowed_ids
from models.lora import Lora
from models.policy import Policy
from models.reference import Reference


def load(cfg: Config, folder: Path, device: str) -> tuple[Policy, Reference | None]:
    """From a Hugging Face folder. With LoRA the policy is its own reference; else that is a frozen copy."""
    learner = cfg.learner
    common: dict[str, Any] = {
        "allowed_ids": allowed_ids(AutoTokenizer.from_pretrained(folder)),
        "dtype": cfg.policy.dtype,
        "attention": cfg.policy.attention,
        "device": device,
    }
    adapter = Lora(learner.lora_rank, learner.lora_alpha, tuple(learner.lora_targets)) if learner.lora_rank else None
    policy = Policy(
        folder,
        freeze_vision=learner.freeze_vision,
        gradient_checkpointing=learner.gradient_checkpointing,
        adapter=adapter,
        **common,
    )
    if cfg.grpo.kl_coef <= 0:
        return policy, None
    return policy, Reference(policy if adapter else Policy(folder, **common), offload=learner.offload_reference)
