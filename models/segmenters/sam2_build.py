"""SAM 2 models from the `sam2` package's constructors: official shapes and a tiny one.

No Hydra configuration is composed: a model is a `Shape` (a few numbers) and its weights. Builds,
saves and loads models; `sam2_track` runs them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from core.files import replacing
from models.progress import show_progress
from models.segmenters.sam2_files import FILES, file_names, recognise
from models.segmenters.sam2_shape import DECODER_HEADS, DECODER_MLP, Shape

# In config.json.
MODEL_TYPE = "sam2"


def build(shape: Shape) -> SAM2Base:
    """Return a random model in eval mode; it has neither dropout nor batch statistics."""
    is_2_1 = shape.version == "2.1"
    model = SAM2Base(
        image_encoder=_image_encoder(shape),
        memory_attention=_memory_attention(shape),
        memory_encoder=_memory_encoder(shape),
        num_maskmem=shape.num_maskmem,
        image_size=shape.image_size,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        # True is the official video predictor's setting.
        binarize_mask_from_pts_for_mem_enc=not shape.dense_prompt,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        no_obj_embed_spatial=is_2_1,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=shape.multimask,
        multimask_output_for_tracking=shape.multimask,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=is_2_1,
        proj_tpos_enc_in_obj_ptrs=is_2_1,
        use_signed_tpos_enc_to_obj_ptrs=is_2_1,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        sam_mask_decoder_extra_args=_official_postprocessing() if shape.multimask else None,
    )
    if (shape.decoder_mlp, shape.decoder_heads) != (DECODER_MLP, DECODER_HEADS):
        model.sam_mask_decoder.transformer = TwoWayTransformer(
            depth=2,
            embedding_dim=shape.hidden,
            mlp_dim=shape.decoder_mlp,
            num_heads=shape.decoder_heads,
        )
    return model.eval()


def _official_postprocessing() -> dict[str, Any]:
    """Return the predictor's options: several masks if the single one is unstable."""
    return {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }


def _image_encoder(shape: Shape) -> ImageEncoder:
    trunk = Hiera(
        embed_dim=shape.embed_dim,
        num_heads=shape.num_heads,
        stages=shape.stages,
        global_att_blocks=shape.global_att_blocks,
        window_spec=shape.window_spec,
        window_pos_embed_bkg_spatial_size=shape.window_background,
    )
    neck = FpnNeck(
        position_encoding=_sine(shape.hidden),
        d_model=shape.hidden,
        backbone_channel_list=[shape.embed_dim * 2**i for i in (3, 2, 1, 0)],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)


def _memory_attention(shape: Shape) -> MemoryAttention:
    grid = shape.image_size // 16
    common = {
        "rope_theta": 10000.0,
        "feat_sizes": [grid, grid],
        "embedding_dim": shape.hidden,
        "num_heads": 1,
        "downsample_rate": 1,
    }
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=shape.memory_mlp,
        dropout=0.0,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(**common),
        d_model=shape.hidden,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(rope_k_repeat=True, kv_in_dim=shape.memory, **common),
    )
    return MemoryAttention(
        d_model=shape.hidden,
        pos_enc_at_input=True,
        layer=layer,
        num_layers=shape.memory_layers,
    )


def _memory_encoder(shape: Shape) -> MemoryEncoder:
    return MemoryEncoder(
        out_dim=shape.memory,
        in_dim=shape.hidden,
        position_encoding=_sine(shape.memory),
        mask_downsampler=MaskDownSampler(
            embed_dim=shape.hidden,
            kernel_size=3,
            stride=2,
            padding=1,
        ),
        fuser=Fuser(
            CXBlock(dim=shape.hidden, kernel_size=7, padding=3, layer_scale_init_value=1e-6),
            num_layers=2,
        ),
    )


def _sine(channels: int) -> PositionEmbeddingSine:
    return PositionEmbeddingSine(
        num_pos_feats=channels,
        normalize=True,
        scale=None,
        temperature=10000,
    )


def save(
    folder: Path,
    model: SAM2Base,
    shape: Shape,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a model's config.json and model.safetensors (half precision).

    Args:
        folder: made if absent; a crash leaves its previous weights whole.
        model: the model.
        shape: its shape.
        notes: go into config.json as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, tensor in model.state_dict().items():
        weights[name] = tensor.detach().to("cpu", torch.float16).contiguous()

    # safetensors makes its files unreadable for others.
    with replacing(folder / "model.safetensors") as partial:
        save_file(weights, partial)
        partial.chmod(0o644)
    config = {"model_type": MODEL_TYPE, "shape": asdict(shape), "notes": notes or {}}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load(path: Path, config: str = "") -> tuple[SAM2Base, Shape]:
    """Return a model in fp32 on the CPU.

    Args:
        path: a folder written by `save`, or an official checkpoint of version 2.0 or 2.1.
        config: the checkpoint's size, checked against the file; empty: the file tells. Not used
            for a folder.

    Raises:
        ValueError: the file is absent, damaged, or holds another model.
    """
    if path.is_dir():
        shape = _read_shape(path / "config.json")
        weights = load_file(_existing(path / "model.safetensors"))
        name = "the model of its config.json"
    else:
        weights = _read_checkpoint(_existing(path))
        sizes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        official = recognise(str(path), sizes, config)
        shape = official.shape
        name = official.name

    model = build(shape)
    _check_weights(path, name, model.state_dict(), weights)
    weights = {key: tensor.float() for key, tensor in weights.items()}
    model.load_state_dict(weights)
    show_progress(model)
    return model, shape


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"segmenter.path: no file {path}; give a folder with config.json and "
            f"model.safetensors, or an official SAM 2 checkpoint: {file_names()}"
        )
    return path


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint.

    Raises:
        ValueError: the file is cut, or no file of weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(
            f"segmenter.path: {path} cannot be read as a checkpoint ({reason}): it is cut or "
            f"something else; download it again; official files: {file_names()}"
        ) from error
    weights = content.get("model", content) if isinstance(content, dict) else {}
    tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"segmenter.path: {path} holds no weights; give one of {file_names()}")
    return tensors


def _read_shape(path: Path) -> Shape:
    """Return the shape in a folder's config.json.

    Raises:
        ValueError: another model's folder.
    """
    inside = [path.parent / file.name for file in FILES if (path.parent / file.name).is_file()]
    if inside:
        # A download from a hub: its config.json is of another library.
        raise ValueError(f"segmenter.path: {path.parent} is a folder; give the file {inside[0]}")
    config = json.loads(_existing(path).read_text())
    if config.get("model_type") != MODEL_TYPE or "shape" not in config:
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}: not a segmenter "
            f"({MODEL_TYPE!r}) folder; give an official file: {file_names()}"
        )
    # JSON has lists for tuples.
    fields: dict[str, Any] = {}
    for key, value in config["shape"].items():
        fields[key] = tuple(value) if isinstance(value, list) else value
    return Shape(**fields)


def _check_weights(
    path: Path,
    name: str,
    expected: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
) -> None:
    """Refuse weights of other shapes, with one of them named; `load_state_dict` names them all."""
    wrong = []
    for key in dict.fromkeys([*expected, *given]):
        in_both = key in expected and key in given
        if not in_both or expected[key].shape != given[key].shape:
            wrong.append(key)
    if wrong:
        raise ValueError(
            f"segmenter.path: {path} looks like {name}, but {len(wrong)} of {len(expected)} "
            f"weights do not fit, e.g. {wrong[0]!r}: it is cut or was changed; take the file "
            "as it was released"
        )
