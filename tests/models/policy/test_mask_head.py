"""The mask head against SAM 2's own decoding, its cache of frozen features, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from models.policy import mask_head
from models.policy.mask_head import FOLDER, FrameFeatures, MaskHead, resize_logits
from models.segmenters import sam2_build, sam2_track
from models.segmenters.sam2_shape import TINY
from tests.models.seg_cases import frames, head, sam


def hidden(count: int = 3, width: int = 64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def test_it_decodes_as_sam2_does_with_one_more_token() -> None:
    """Against `SAM2Base` on an image without points: its prompt encoder and decoder."""
    model = sam()
    ours = head(model)
    frozen = FrameFeatures(model, TINY)
    names = list(frames())
    logits_Mhw, token_MC = ours(hidden(2), frozen(names, frames()), torch.tensor([1, 0, 1]))
    assert logits_Mhw.shape == (3, 32, 32)
    assert token_MC.shape == (3, 64)
    assert logits_Mhw.min() < 0 < logits_Mhw.max()
    assert (logits_Mhw[0] - logits_Mhw[2]).abs().max() > 0.1
    torch.testing.assert_close(token_MC, ours.mlp(hidden(2))[[1, 0, 1]])
    no_points = (torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32))
    for name, token_C, found_hw in zip(names, token_MC, logits_Mhw, strict=True):
        frame_1HWC = torch.from_numpy(frames()[name])[None]
        image = sam2_track.normalise(frame_1HWC, TINY.image_size)
        maps = sam2_track.encode(model, image)
        sparse, dense = model.sam_prompt_encoder(points=no_points, boxes=None, masks=None)
        expected, *_ = ours.decoder.predict_masks(
            image_embeddings=maps[2] + model.no_mem_embed.reshape(1, -1, 1, 1),
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.cat([sparse, token_C[None, None]], 1),
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=list(maps[:2]),
        )
        torch.testing.assert_close(found_hw, expected[0, 0], atol=1e-5, rtol=1e-5)


def test_of_three_masks_the_one_with_the_best_predicted_iou_is_drawn() -> None:
    model = sam()
    frozen = FrameFeatures(model, TINY)
    names = list(frames())
    several = MaskHead(model, 64, multimask=True)
    # Mask token 2 of 0..3.
    several.decoder.iou_prediction_head.layers[-1].bias.data[2] = 9.0
    maps = frozen(names, frames())
    drawn, token_MC = several(hidden(3), maps, torch.arange(3))
    no_points = several.no_point.expand(3, 2, 64)
    low, iou, *_ = several.decoder.predict_masks(
        maps[2] + several.no_memory,
        several.dense_pe,
        torch.cat([no_points, token_MC[:, None]], 1),
        several.no_mask.reshape(1, -1, 1, 1).expand(3, -1, 8, 8),
        False,
        list(maps[:2]),
    )
    assert iou.argmax(1).tolist() == [2, 2, 2]
    torch.testing.assert_close(drawn, low[:, 2])


def test_features_are_frozen_cached_by_digest_and_bounded() -> None:
    model = sam()
    frozen = FrameFeatures(model, TINY)
    names = list(frames())
    first = frozen(names * 2, frames())
    assert not any(level.requires_grad for level in first)
    assert not any(p.requires_grad for p in model.parameters())
    assert frozen.features.encoded == 3
    again = frozen(names[:1], frames())
    assert frozen.features.encoded == 3
    for level, same_level in zip(first, again, strict=True):
        assert torch.equal(level[:1], same_level)

    tight = FrameFeatures(model, TINY, cache_bytes=1)
    for name in names:
        tight([name], frames())
    assert len(tight.features.kept) == 1
    assert tight.features.encoded == 3
    assert [level.shape for level in frozen.blank()] == [level[:1].shape for level in first]
    with pytest.raises(ValueError, match="frame nowhere of a mask is not among the 3 frames"):
        frozen(["nowhere"], frames())


def test_what_no_loss_reaches_is_frozen_and_the_rest_is_trained() -> None:
    model = sam()
    ours = head(model)
    frozen = FrameFeatures(model, TINY)
    maps = frozen(list(frames()), frames())
    logits_Mhw, _ = ours(hidden(3), maps, torch.arange(3))
    logits_Mhw.square().sum().backward()
    for name, parameter in ours.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert not any("conv_s" in name for name, _ in ours.named_parameters())
    frozen_parts = set()
    for name, parameter in ours.named_parameters():
        if not parameter.requires_grad:
            frozen_parts.add(name.split(".")[1])
    assert frozen_parts == {"iou_prediction_head", "pred_obj_score_head"}

    # The decoder is a copy: SAM 2 stays as it is.
    before = model.sam_mask_decoder.iou_token.weight.clone()
    ours.decoder.iou_token.weight.data += 1.0
    assert torch.equal(model.sam_mask_decoder.iou_token.weight, before)


def test_bfloat16_gives_nearly_the_same_masks_in_fp32() -> None:
    model = sam()
    ours = head(model)
    frozen = FrameFeatures(model, TINY)
    ask = (frozen(list(frames()), frames()), torch.arange(3))
    exact = ours(hidden(3), *ask)[0]
    # As DeepSpeed does it: buffers stay as they are.
    for parameter in ours.parameters():
        parameter.data = parameter.data.bfloat16()
    rough = ours(hidden(3).bfloat16(), *ask)[0]
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_logits_are_resized_to_the_frame() -> None:
    logits_Mhw = torch.randn(2, 32, 32)
    assert resize_logits(logits_Mhw, 60, 90).shape == (2, 60, 90)
    assert torch.equal(resize_logits(logits_Mhw, 32, 32), logits_Mhw)
    expected = F.interpolate(logits_Mhw[:, None], (60, 90), mode="bilinear")[:, 0]
    found = resize_logits(logits_Mhw.bfloat16(), 60, 90)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    head(sam()).save(folder)
    return folder


def copy_of(saved: Path, target: Path) -> Path:
    (target / FOLDER).mkdir()
    for file in (saved / FOLDER).iterdir():
        (target / FOLDER / file.name).write_bytes(file.read_bytes())
    return target


def test_a_saved_head_draws_the_same_masks(saved: Path) -> None:
    model = sam()
    maps = FrameFeatures(model, TINY)(list(frames()), frames())
    loaded = mask_head.load(saved, model, 64)
    found, _ = loaded(hidden(3), maps, torch.arange(3))
    expected, _ = head(sam())(hidden(3), maps, torch.arange(3))
    assert torch.equal(found, expected)

    names = sorted(file.name for file in (saved / FOLDER).iterdir())
    assert names == ["config.json", "model.safetensors"]
    # vLLM would take it for the policy's.
    assert not list(saved.glob("*.safetensors"))


def test_a_head_that_does_not_fit_is_named_with_the_remedy(saved: Path, tmp_path: Path) -> None:
    model = sam()
    with pytest.raises(ValueError, match=r"no file .*mask_head/config.json: .*warm_start"):
        mask_head.load(tmp_path, model, 64)
    with pytest.raises(
        ValueError, match="config.json: made for hidden states of width 64, the policy .* has 128"
    ):
        mask_head.load(saved, model, 128)
    torch.manual_seed(8)
    with pytest.raises(
        ValueError, match="config.json: trained over another SAM 2 .*set segmenter.path"
    ):
        mask_head.load(saved, sam2_build.build(TINY), 64)
    folder = copy_of(saved, tmp_path)
    weights = load_file(folder / FOLDER / "model.safetensors")
    save_file(weights | {"mlp.2.bias": torch.zeros(3)}, folder / FOLDER / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model.safetensors: 1 weights .*'mlp.2.bias' is \(3,\) there and \(64,\)"
    ):
        mask_head.load(folder, model, 64)
    del weights["no_point"]
    save_file(weights, folder / FOLDER / "model.safetensors")
    with pytest.raises(ValueError, match="'no_point' is absent there"):
        mask_head.load(folder, model, 64)
    (folder / FOLDER / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(ValueError, match="model_type is 'sam2': not a mask head"):
        mask_head.load(folder, model, 64)


def test_a_mask_depends_on_its_frame_and_on_nothing_beside_it() -> None:
    model = sam()
    ours = head(model)
    frozen = FrameFeatures(model, TINY)
    names = list(frames())
    same_token_3 = torch.zeros(3, dtype=torch.int64)
    together, _ = ours(hidden(1), frozen(names, frames()), same_token_3)
    for name, found_hw in zip(names, together, strict=True):
        alone, _ = ours(hidden(1), frozen([name], frames()), same_token_3[:1])
        np.testing.assert_allclose(found_hw.detach(), alone[0].detach(), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01
