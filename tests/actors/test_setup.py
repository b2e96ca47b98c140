"""The message that opens a dialogue, and the unit of places: settings, system and family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.rollout import engine_settings
from actors.setup import make_system, system_message, vision_of
from configs.load import load, validate_values
from configs.schema import Config
from models.engine.settings import AdapterSettings, lora_args

DEFAULT = "You are a helpful assistant."


def settings(folder: Path, model_type: str = "qwen2_5_vl", *changes: str) -> Config:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return load(["revseg_7b", f"policy.path={folder}", *changes])


def test_auto_is_the_message_of_the_official_template(tmp_path: Path) -> None:
    assert system_message(settings(tmp_path)) == DEFAULT
    assert system_message(settings(tmp_path, "qwen3_vl")) == ""


def test_a_setting_takes_its_place(tmp_path: Path) -> None:
    none = settings(tmp_path, "qwen2_5_vl", "policy.system_message=none")
    assert system_message(none) == ""
    own = settings(tmp_path, "qwen2_5_vl", "policy.system_message=Be kind.")
    assert system_message(own) == "Be kind."
    assert engine_settings(own, "cpu").system_message == "Be kind."


def test_an_engine_is_ready_for_adapters_where_it_will_take_some(tmp_path: Path) -> None:
    lora = ["learner.lora_rank=12", "learner.lora_publish=adapter", "learner.lora_alpha=6"]
    cfg = settings(tmp_path, "qwen2_5_vl", *lora, "learner.lora_targets=[v_proj]")
    assert engine_settings(cfg, "cpu").adapter is None
    adapter = engine_settings(cfg, "cpu", learns=True).adapter
    assert adapter == AdapterSettings(12, 6.0, ("v_proj",))
    assert lora_args(adapter)["max_lora_rank"] == 16

    cfg.learner.lora_targets = []
    adapter = engine_settings(cfg, "cpu", learns=True).adapter
    assert adapter is not None
    assert "down_proj" in adapter.targets
    cfg.learner.lora_publish = "merged"
    assert engine_settings(cfg, "cpu", learns=True).adapter is None


def test_an_adapter_of_the_vision_tower_cannot_be_sent(tmp_path: Path) -> None:
    lora = ["learner.lora_rank=4", "learner.lora_publish=adapter"]
    cfg = settings(tmp_path, "qwen2_5_vl", *lora, "learner.lora_targets=[qkv, v_proj]")
    with pytest.raises(ValueError, match=r"lora_targets=\['qkv', 'v_proj'\]: some of q_proj, "):
        engine_settings(cfg, "cpu", learns=True)


def test_an_empty_message_is_refused(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    cfg.policy.system_message = " "
    with pytest.raises(ValueError, match=r"policy.system_message is empty: give auto, none or"):
        validate_values(cfg)


def test_a_system_may_explain_its_task_in_the_message(tmp_path: Path) -> None:
    settings(tmp_path, "qwen3_vl")
    cfg = load(["videoseg_o3_2b", f"policy.path={tmp_path}"])
    assert cfg.system.options["instruct"] == "system"
    assert "<VTG>" in system_message(cfg)
    cfg.policy.system_message = "Be kind."
    assert system_message(cfg) == "Be kind."
    cfg.policy.system_message = "none"
    with pytest.raises(ValueError, match=r"policy.system_message=none.*instruct=user"):
        system_message(cfg)


@pytest.mark.parametrize("preset", ["revseg_tiny", "videoseg_r1_tiny", "videoseg_o3_tiny"])
def test_shipped_policies_were_taught_without_a_message(preset: str) -> None:
    assert system_message(load([preset])) == ""


def test_the_unit_of_places_is_the_familys_or_a_setting(tmp_path: Path) -> None:
    assert vision_of(settings(tmp_path)).coordinates == "pixels"
    assert vision_of(settings(tmp_path, "qwen3_vl")).coordinates == "thousandths"
    cfg = settings(tmp_path, "qwen3_vl", "policy.coordinates=pixels")
    assert vision_of(cfg).coordinates == "pixels"
    assert make_system(cfg).vision == vision_of(cfg)  # type: ignore[attr-defined]
