"""Families of vision-language models: all differences between one policy and another.

    family = family_of(Path("Qwen3-VL-4B-Instruct"))
    family.vision.round_size(500, 890)    # (512, 896)

Light: reads `config.json` alone and imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from models.families.base import ChatFormat, Family
from models.families.qwen2_5_vl import Qwen2_5VL
from models.families.qwen3_vl import Qwen3VL

__all__ = ["FAMILIES", "ChatFormat", "Family", "Qwen2_5VL", "Qwen3VL", "family_of"]

FAMILIES: dict[str, type[Family]] = {
    "qwen2_5_vl": Qwen2_5VL,
    "qwen3_vl": Qwen3VL,
}

_LINEAR_ATTENTION = (
    "its linear attention carries a state through the row, from one branch into the next, "
    "so episodes of a group would read each other"
)
_EXPERTS = "its routed experts were never compared between engine and learner"

# Model types that a user may well try, and why they cannot be trained.
REFUSED = {
    "sa2va_chat": "it is a released VideoSEG-O3, with mask head and SAM 2 in one folder; take it "
    "apart with `python -m ray_jobs.convert`",
    "qwen2_vl": "its older vision tower was never compared between engine and learner",
    "qwen3_vl_moe": _EXPERTS,
    "qwen3_5": _LINEAR_ATTENTION,
    "qwen3_5_moe": _LINEAR_ATTENTION,
    "qwen3_next": _LINEAR_ATTENTION,
}


def family_of(folder: str | Path) -> Family:
    """Return the family of the policy in a Hugging Face folder.

    Raises:
        ValueError: the folder has no readable `config.json`, or its model type is not supported.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise ValueError(
            f"policy.path={folder!s}: no file {file}; give a Hugging Face folder of a policy"
        )

    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not valid JSON ({error}); copy the policy's folder anew"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: no JSON object; copy the policy's folder anew")

    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        reason = REFUSED.get(model_type, "rayvos does not know it")
        raise ValueError(
            f"policy.path={folder!s}: model_type {model_type!r} in config.json is not supported: "
            f"{reason}; set policy.path to a folder of {' or '.join(FAMILIES)}"
        )
    return FAMILIES[model_type](config)
