"""A release in Sa2VA's format, made of the shipped tiny policy, and what it is taken apart into."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from models.dialogue import load_dialogue
from models.families import family_of
from models.policy import mask_head
from models.policy.mask_head import FrameFeatures
from models.policy.sa2va import MLP, POLICY, SAM, SAM_FILE, convert
from models.segmenters import sam2_build
from models.segmenters.sam2_shape import OFFICIAL, TINY
from ray_jobs.convert import main
from tests.models.seg_cases import frames

SHIPPED = Path(__file__).parents[3] / "tiny" / "weights" / "videoseg_o3"
SHAPE = replace(TINY, version="2.0")
WIDTH = 64


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


def trained_sam() -> SAM2Base:
    torch.manual_seed(3)
    return sam2_build.build(SHAPE)


def trained_mlp(width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = {
        "0.weight": (width, width),
        "0.bias": (width,),
        "2.weight": (WIDTH, width),
        "2.bias": (WIDTH,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as the release's own conversion writes it; SAM 2 is as small as the tiny one."""
    monkeypatch.setitem(OFFICIAL, "hiera_t", SHAPE)
    folder = tmp_path / "release"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("mask_head", "*.safetensors"))
    (folder / "modeling_sa2va_qwen.py").write_text("raise SystemExit\n")
    auto_map = {"AutoModel": "modeling_sa2va_qwen.Sa2VAChatModelQwen"}
    edit(folder / "config.json", model_type="sa2va_chat", auto_map=auto_map, template="x")
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    for token in tokens:
        token["special"] |= token["content"] == "[SEG]"
    edit(folder / "tokenizer.json", added_tokens=tokens)
    edit(folder / "tokenizer_config.json", additional_special_tokens=["[SEG]"])

    shipped = load_file(SHIPPED / "model.safetensors")
    save_file(
        {POLICY + name: tensor for name, tensor in shipped.items()},
        folder / "model-00001-of-00002.safetensors",
    )
    rest = {MLP + name: tensor for name, tensor in trained_mlp(width_of_shipped()).items()}
    for name, tensor in trained_sam().state_dict().items():
        rest[SAM + name.replace(".gamma", ".g_weight")] = tensor.clone()
    save_file(rest, folder / "model-00002-of-00002.safetensors")
    return folder


def width_of_shipped() -> int:
    return family_of(SHIPPED).hidden_size


def test_the_policy_is_a_folder_of_its_family(release: Path, tmp_path: Path) -> None:
    from models.policy.policy import Policy

    out = tmp_path / "out"
    main([str(release), str(out)])
    dialogue = load_dialogue(out)
    (seg_id,) = dialogue.text("[SEG]")
    assert seg_id in dialogue.allowed_ids()
    assert seg_id not in load_dialogue_of_shipped_controls()
    policy = Policy(out, allowed_ids=dialogue.allowed_ids(), attention="split")
    expected = Policy(SHIPPED, allowed_ids=dialogue.allowed_ids(), attention="split")
    for name, tensor in expected.vlm.state_dict().items():
        assert torch.equal(policy.vlm.state_dict()[name], tensor), name
    assert not list(out.glob("*.py"))


def load_dialogue_of_shipped_controls() -> set[int]:
    dialogue = load_dialogue(SHIPPED)
    return set(range(len(dialogue.tokenizer))) - set(dialogue.allowed_ids())


def test_the_head_decodes_with_the_trained_layers(release: Path, tmp_path: Path) -> None:
    """The language token is that of the released layers, the mask that of the released decoder."""
    out = tmp_path / "out"
    convert(release, out)
    sam, shape = sam2_build.load(out / SAM_FILE)
    assert shape == SHAPE
    for name, tensor in trained_sam().state_dict().items():
        assert torch.equal(sam.state_dict()[name], tensor), name

    width = width_of_shipped()
    head = mask_head.load(out, sam, width, multimask=True)
    hidden = torch.randn(2, width, generator=torch.Generator().manual_seed(1))
    features = FrameFeatures(sam, shape)
    maps = features(list(frames())[:2], frames())
    logits_Mhw, token_MC = head(hidden, maps, torch.arange(2))

    mlp = trained_mlp(width)
    inner = (hidden @ mlp["0.weight"].T + mlp["0.bias"]).relu()
    torch.testing.assert_close(token_MC, inner @ mlp["2.weight"].T + mlp["2.bias"])

    decoder = trained_sam()
    no_point = torch.zeros(2, 1, 2), -torch.ones(2, 1, dtype=torch.int32)
    sparse, dense = decoder.sam_prompt_encoder(points=no_point, boxes=None, masks=None)
    low, iou, *_ = decoder.sam_mask_decoder(
        image_embeddings=maps[2] + decoder.no_mem_embed.reshape(1, -1, 1, 1),
        image_pe=decoder.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=torch.cat([sparse, token_MC[:, None]], 1),
        dense_prompt_embeddings=dense,
        multimask_output=True,
        repeat_image=False,
        high_res_features=list(maps[:2]),
    )
    best_2 = iou.argmax(1)
    torch.testing.assert_close(logits_Mhw, low[torch.arange(2), best_2], atol=1e-5, rtol=1e-5)


def test_other_folders_are_refused_by_name(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="model_type is 'qwen3_vl'; only VideoSEG-O3's releases"):
        convert(SHIPPED, out)
    with pytest.raises(ValueError, match="no config.json; give the folder of a released"):
        convert(tmp_path / "nowhere", out)
    with pytest.raises(ValueError, match="1 arguments given; usage"):
        main(["here"])
    with pytest.raises(ValueError, match="'sa2va_chat' .* not supported: .*ray_jobs.convert"):
        family_of(release)
    (release / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no weight text_hidden_fcs.\*: a part of the release"):
        convert(release, out)
    with pytest.raises(ValueError, match="out: exists already"):
        convert(release, out)
