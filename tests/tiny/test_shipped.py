"""The shipped weights are small, and the tiny presets name them."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from configs.load import REPOSITORY, load, resolve
from models.policy import mask_head

WEIGHTS = REPOSITORY / "tiny" / "weights"
PRESETS = ("revseg_tiny", "videoseg_r1_tiny", "videoseg_o3_tiny", "veason_r1_tiny")


def test_shipped_weights_have_at_most_30_mb() -> None:
    size = sum(file.stat().st_size for file in WEIGHTS.rglob("*.safetensors"))
    assert 10e6 < size <= 30e6


@pytest.mark.parametrize("preset", PRESETS)
def test_every_tiny_preset_has_its_policy(preset: str) -> None:
    cfg = load([preset])
    folder = resolve(cfg.policy.path)
    assert folder.parent == WEIGHTS
    assert AutoConfig.from_pretrained(folder).model_type.startswith("qwen")
    mode = (folder / "model.safetensors").stat().st_mode
    assert mode & 0o444 == 0o444, "readable by all who clone"
    assert (folder / mask_head.FOLDER).is_dir() == bool(cfg.mask.token)
