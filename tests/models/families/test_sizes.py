"""Parameters by arithmetic against the modules themselves, on torch's meta device."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

from configs.load import REPOSITORY
from models.families.sizes import RELEASED, config_of_name, sizes_of

TINY = REPOSITORY / "tiny/weights"


def released_config(config: dict[str, Any]) -> Any:
    """Return transformers' configuration of a released model."""
    rest = {key: value for key, value in config.items() if key != "model_type"}
    if config["model_type"] == "qwen3_vl":
        return Qwen3VLConfig(**rest)
    vision = rest.pop("vision_config")
    tied = rest["tie_word_embeddings"]
    return Qwen2_5_VLConfig(text_config=rest, vision_config=vision, tie_word_embeddings=tied)


def parameters(config: Any) -> tuple[int, int]:
    """Return the parameters of the whole model and of its vision tower."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    whole = sum(parameter.numel() for parameter in model.parameters())
    tower = sum(parameter.numel() for parameter in model.model.visual.parameters())
    return whole, tower


@pytest.mark.parametrize("name", RELEASED)
def test_released_models(name: str) -> None:
    sizes = sizes_of(RELEASED[name])
    assert (sizes.parameters, sizes.vision) == parameters(released_config(RELEASED[name]))


@pytest.mark.parametrize("name", ["revseg", "videoseg_o3"])
def test_a_folder_of_each_family(name: str) -> None:
    sizes = sizes_of(json.loads((TINY / name / "config.json").read_text()))
    whole, tower = parameters(AutoConfig.from_pretrained(TINY / name))
    assert (sizes.parameters, sizes.vision) == (whole, tower)


def test_kv_values_of_a_token() -> None:
    assert sizes_of(RELEASED["Qwen2.5-VL-7B"]).kv_values == 2 * 28 * 4 * 128
    assert sizes_of(RELEASED["Qwen3-VL-4B"]).kv_values == 2 * 36 * 8 * 128


def test_models_are_known_by_their_names() -> None:
    for path, base in (
        ("checkpoints/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B"),
        ("/models/qwen3-vl-4b-instruct", "Qwen3-VL-4B"),
        ("checkpoints/Veason-R1-7B-SFT", "Qwen2.5-VL-7B"),
        ("checkpoints/VideoSEG-O3-2B-cold-start", "Qwen3-VL-2B"),
    ):
        known = config_of_name(path)
        assert known is not None
        assert known[0] == base
    assert config_of_name("somewhere/else") is None
