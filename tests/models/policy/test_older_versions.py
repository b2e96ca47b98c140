"""Exported policies name their settings as transformers 4.57 reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from models.policy.older_versions import add_old_names
from tests.models import tiny_engine, tiny_qwen


@pytest.mark.parametrize("build", [tiny_engine.build, tiny_qwen.build_qwen3])
def test_both_names_stand_there_and_mean_the_same(tmp_path: Path, build) -> None:
    folder = build(tmp_path / "policy")
    before = AutoConfig.from_pretrained(folder).to_dict()
    add_old_names(folder)

    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["rope_theta"] == 1e4
    assert text["rope_scaling"]["mrope_section"] == text["rope_parameters"]["mrope_section"]
    assert "rope_theta" not in text["rope_scaling"]
    assert AutoConfig.from_pretrained(folder).to_dict() == before


def test_special_tokens_are_a_list_under_the_old_name(tmp_path: Path) -> None:
    tokenizer = tiny_engine.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_pad|>"]})
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    add_old_names(tmp_path)

    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["additional_special_tokens"] == ["<|image_pad|>"]
    assert "extra_special_tokens" not in written
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.all_special_ids == tokenizer.all_special_ids
