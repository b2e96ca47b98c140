"""Both families on small configurations, and the refusal of all others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.types import Vision
from models.families import FAMILIES, Qwen2_5VL, Qwen3VL, family_of


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_released_qwen2_5_vl(tmp_path: Path) -> None:
    """The released folders keep the language model's settings at the top level."""
    config = {
        "model_type": "qwen2_5_vl",
        "hidden_size": 3584,
        "image_token_id": 151655,
        "vision_config": {"patch_size": 14, "spatial_merge_size": 2},
    }
    family = family_of(write_config(tmp_path / "policy", config))

    assert isinstance(family, Qwen2_5VL)
    assert family.vision == Vision(cell=28, min_pixels=784, max_pixels=12845056)
    assert family.layout.token_id == 151655
    assert family.layout.cell == 28
    assert family.hidden_size == 3584


def test_released_qwen3_vl(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "text_config": {"hidden_size": 2560},
        "vision_config": {"patch_size": 16, "spatial_merge_size": 2},
    }
    family = family_of(write_config(tmp_path / "policy", config))

    assert isinstance(family, Qwen3VL)
    assert family.vision == Vision(32, 1024, 16777216, coordinates="thousandths")
    assert family.layout.cell == 32
    assert family.hidden_size == 2560


def test_sizes_come_from_the_folder(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_vl", "image_token_id": 7, "vision_config": {"patch_size": 14}}
    family = family_of(write_config(tmp_path / "policy", config))

    assert family.vision.cell == 28
    assert family.layout.token_id == 7


@pytest.mark.parametrize(("name", "cell"), [("qwen2_5_vl", 28), ("qwen3_vl", 32)])
def test_a_family_without_a_folder_has_the_released_sizes(name: str, cell: int) -> None:
    assert FAMILIES[name]().vision.cell == cell
    assert FAMILIES[name].model_type == name


def test_qwen2_5_vl_writes_pixels_after_a_system_message() -> None:
    assert Qwen2_5VL().vision.coordinates == "pixels"
    assert Qwen2_5VL.chat.system == "You are a helpful assistant."


def test_qwen3_vl_writes_thousandths_without_a_system_message() -> None:
    assert Qwen3VL().vision.coordinates == "thousandths"
    assert not Qwen3VL.chat.system


@pytest.mark.parametrize(
    ("size", "rounded"),
    [
        ((448, 896), (448, 896)),
        ((500, 890), (512, 896)),
        ((1, 15), (32, 32)),
        ((49, 47), (64, 32)),
    ],
)
def test_sizes_are_rounded_to_the_nearest_cell(
    size: tuple[int, int], rounded: tuple[int, int]
) -> None:
    assert Vision(cell=32).round_size(*size) == rounded


def test_linear_attention_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "policy", {"model_type": "qwen3_5"})
    with pytest.raises(
        ValueError, match=r"policy\.path.*'qwen3_5'.*linear attention.*qwen2_5_vl or qwen3_vl"
    ):
        family_of(folder)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "policy", {"model_type": "llava"})
    with pytest.raises(ValueError, match="'llava'.*does not know it"):
        family_of(folder)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*config\.json"):
        family_of(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 10**6], ids=["list", "cut", "nested"])
def test_a_broken_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: .*copy the policy's folder anew"):
        family_of(tmp_path)


def test_images_are_repeated() -> None:
    features = SimpleNamespace(pooler_output=("a", "b"))
    found = Qwen2_5VL().repeat_images(features, [1, 0, 1])
    assert found.pooler_output == ("b", "a", "b")


def test_deepstack_features_are_repeated_with_the_images() -> None:
    features = SimpleNamespace(
        pooler_output=("a", "b"), deepstack_features=[("a1", "b1"), ("a2", "b2")]
    )
    found = Qwen3VL().repeat_images(features, [1, 1, 0])
    assert found.pooler_output == ("b", "b", "a")
    assert found.deepstack_features == [("b1", "b1", "a1"), ("b2", "b2", "a2")]


def test_families_are_light() -> None:
    """Drivers ask a family before they load any model."""
    code = "import sys, models.families; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
