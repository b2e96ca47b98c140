"""Whether a checkpoint fits a policy, by their configuration files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

# Endings of the keys that decide on the shapes of weights.
_SIZES = ("_size", "_heads", "_layers", "depth", "model_type", "tie_word_embeddings")


def check_architecture(config: PretrainedConfig, folder: Path) -> None:
    """Compare the policy in `folder` with a configuration.

    Raises:
        ValueError: the policy has weights of other shapes; with the first differences.
    """
    here = _shapes(config.to_dict())
    there = _shapes(AutoConfig.from_pretrained(folder).to_dict())
    differences: list[str] = []
    for key in sorted(here | there):
        if here.get(key) != there.get(key):
            differences.append(f"{key} is {there.get(key)}, here {here.get(key)}")
    if differences:
        raise ValueError(
            f"checkpoint {folder} holds another architecture than policy.path "
            f"({'; '.join(differences[:4])}): "
            "resume with the policy it was trained from, or start a new run"
        )


def _shapes(config: dict[str, Any]) -> dict[str, Any]:
    """Return the model's type, sizes and counts, under dotted keys."""
    parts = {
        "": config,
        "text_config.": config["text_config"],
        "vision_config.": config["vision_config"],
    }
    shapes: dict[str, Any] = {}
    for prefix, part in parts.items():
        for key, value in part.items():
            if str(key).endswith(_SIZES):
                shapes[prefix + key] = value
    return shapes
