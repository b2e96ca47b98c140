"""The models of a learner rank as the configuration says: the policy, and the reference if the KL term is on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import resolve
from configs.schema import Config
from models.dialogue import Dialogue, load_dialogue
from models.policy.lora import Lora
from models.policy.policy import Policy
from models.policy.reference import Reference

if TYPE_CHECKING:  # most policies do not draw, and need no SAM 2
    from models.policy.seg_policy import SegPolicy


def load(cfg: Config, folder: Path, device: str) -> tuple[Policy | SegPolicy, Reference | None]:
    """From a Hugging Face folder, with its mask head where `mask.token` is set. With LoRA the policy is its own
    reference; else that is a frozen copy."""
    learner = cfg.learner
    dialogue = load_dialogue(folder)
    common: dict[str, Any] = {
        "allowed_ids": dialogue.allowed_ids(),
        "dtype": cfg.policy.dtype,
        "attention": cfg.policy.attention,
        "device": device,
    }
    adapter = None
    if learner.lora_rank:
        targets = tuple(learner.lora_targets) or dialogue.family.lora_targets
        adapter = Lora(learner.lora_rank, learner.lora_alpha, targets)
    policy = Policy(
        folder,
        freeze_vision=learner.freeze_vision,
        gradient_checkpointing=learner.gradient_checkpointing,
        adapter=adapter,
        **common,
    )
    whole = drawing(cfg, folder, policy, dialogue) if cfg.mask.token else policy
    if cfg.grpo.kl_coef <= 0:
        return whole, None
    return whole, Reference(
        policy if adapter else Policy(folder, **common), offload=learner.offload_reference
    )


def drawing(cfg: Config, folder: Path, policy: Policy, dialogue: Dialogue) -> SegPolicy:
    """The policy with the mask head of its folder. Raises ValueError for a token or head that is not there."""
    from models.policy.seg_policy import SegOptions, attach
    from models.segmenters import sam2_build

    mask = cfg.mask
    sam, shape = sam2_build.load(resolve(cfg.segmenter.path), cfg.segmenter.config)
    options = SegOptions(
        calibration=mask.calibration,
        threshold=mask.threshold,
        bce=mask.bce,
        dice=mask.dice,
        points=mask.points,
    )
    return attach(
        policy, folder, sam, shape, token_id(dialogue, mask.token), options, fresh=mask.fresh
    )


def token_id(dialogue: Dialogue, token: str) -> int:
    """Of `mask.token`, which must be one token of the policy's that it may say; else a ValueError."""
    ids = dialogue.text(token)
    if len(ids) != 1:
        raise ValueError(
            f"mask.token={token}: {len(ids)} tokens in policy.path's tokenizer, not one: ray_jobs.warm_start adds it"
        )
    return ids[0]
