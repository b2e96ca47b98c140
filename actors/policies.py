"""The models of a learner rank: the policy, and the reference if the KL term is on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import resolve
from configs.schema import Config
from models.dialogue import Dialogue, load_dialogue
from models.policy.lora import Lora
from models.policy.policy import Policy
from models.policy.reference import Reference

# Most policies do not draw, and need no SAM 2.
if TYPE_CHECKING:
    from models.policy.seg_policy import SegPolicy


def load(cfg: Config, folder: Path, device: str) -> tuple[Policy | SegPolicy, Reference | None]:
    """Load the policy of a Hugging Face folder, with its mask head if `mask.token` is set.

    Returns:
        The policy, and the reference if there is a KL term. With LoRA the policy is its own
        reference; otherwise the reference is a frozen copy.

    Raises:
        ValueError: the folder, its mask head or a setting does not fit.
    """
    learner = cfg.learner
    dialogue = load_dialogue(folder)
    common: dict[str, Any] = {
        "allowed_ids": dialogue.allowed_ids(),
        "dtype": cfg.policy.dtype,
        "attention": cfg.policy.attention,
        "device": device,
    }
    adapter: Lora | None = None
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
    whole: Policy | SegPolicy = policy
    if cfg.mask.token:
        whole = with_mask_head(cfg, folder, policy, dialogue)
    if cfg.grpo.kl_coef <= 0:
        return whole, None

    start = policy if adapter is not None else Policy(folder, **common)
    return whole, Reference(start, offload=learner.offload_reference)


def with_mask_head(cfg: Config, folder: Path, policy: Policy, dialogue: Dialogue) -> SegPolicy:
    """Return the policy with the mask head of its folder.

    Raises:
        ValueError: the folder has no such token or no head.
    """
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
        multimask=mask.multimask,
    )
    seg_id = token_id(dialogue, mask.token)
    return attach(policy, folder, sam, shape, seg_id, options, fresh=mask.fresh)


def token_id(dialogue: Dialogue, token: str) -> int:
    """Return the id of `mask.token`.

    Raises:
        ValueError: it is not one token of the policy's vocabulary.
    """
    ids = dialogue.text(token)
    if len(ids) != 1:
        raise ValueError(
            f"mask.token={token}: {len(ids)} tokens in policy.path's tokenizer, not one: "
            "ray_jobs.warm_start adds it"
        )
    return ids[0]
