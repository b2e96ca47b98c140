"""SAM 2 models from the `sam2` package's constructors: the official SAM 2.1 shapes and a tiny one.

No Hydra configuration is composed: a model is a `Shape` (a few numbers) and its weights. Builds,
saves and loads models; `sam2_track` runs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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

from core.files import replacing

# In config.json.
MODEL_TYPE = "sam2"

# SAM2Base fixes these sizes of its mask decoder.
DECODER_MLP = 2048
DECODER_HEADS = 8


@dataclass(frozen=True)
class Shape:
    """Sizes of a SAM 2 model. Defaults are those shared by the official SAM 2.1 models.

    Attributes:
        embed_dim: width of the image encoder's first stage, doubled at each of the three others.
        num_heads: attention heads of the first stage, doubled likewise.
        stages: blocks of each stage.
        global_att_blocks: blocks with attention over the whole image.
        window_spec: side of the attention windows of each stage.
        window_background: size of the position embedding's background.
        image_size: side of the square input, in pixels.
        hidden: D, width of all parts after the image encoder.
        memory: channels of a frame's memory.
        memory_layers: layers of the memory attention.
        memory_mlp, decoder_mlp: widths of their MLPs.
        decoder_heads: attention heads of the mask decoder.
        num_maskmem: remembered frames.
        multimask: three masks for an ambiguous prompt and for tracked frames; else always one mask.
        dense_prompt: write prompts into the low-resolution mask input as well (this project's tiny
            model).
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    window_background: tuple[int, int] = (7, 7)
    image_size: int = 1024
    hidden: int = 256
    memory: int = 64
    memory_layers: int = 4
    memory_mlp: int = 2048
    decoder_mlp: int = DECODER_MLP
    decoder_heads: int = DECODER_HEADS
    num_maskmem: int = 7
    multimask: bool = True
    dense_prompt: bool = False


# From sam2/configs/sam2.1/sam2.1_hiera_*.yaml.
OFFICIAL = {
    "hiera_t": Shape(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "hiera_s": Shape(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera_b+": Shape(
        112,
        2,
        (2, 3, 16, 3),
        (12, 16, 20),
        window_background=(14, 14),
    ),
    "hiera_l": Shape(
        144,
        2,
        (2, 6, 36, 4),
        (23, 33, 43),
        window_spec=(8, 4, 16, 8),
    ),
}

TINY = Shape(
    embed_dim=24,
    num_heads=1,
    stages=(1, 2, 3, 1),
    global_att_blocks=(5,),
    window_spec=(8, 4, 8, 4),
    image_size=128,
    hidden=64,
    memory=16,
    memory_layers=2,
    memory_mlp=256,
    decoder_mlp=256,
    multimask=False,
    dense_prompt=True,
)


def build(shape: Shape) -> SAM2Base:
    """Return a random model in eval mode; it has neither dropout nor batch statistics."""
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
        no_obj_embed_spatial=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=shape.multimask,
        multimask_output_for_tracking=shape.multimask,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=True,
        use_signed_tpos_enc_to_obj_ptrs=True,
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


def load(path: Path, name: str = "") -> tuple[SAM2Base, Shape]:
    """Return a model in fp32 on the CPU.

    Args:
        path: a folder written by `save`, or an official checkpoint.
        name: the checkpoint's shape, a key of `OFFICIAL`; not used for a folder.

    Raises:
        ValueError: the file is absent or holds another architecture.
    """
    if path.is_dir():
        shape = _read_shape(path / "config.json")
        weights = load_file(_existing(path / "model.safetensors"))
    else:
        _existing(path)
        shape = _official_shape(name)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = weights.get("model", weights)

    model = build(shape)
    _check_weights(path, name, model.state_dict(), weights)
    weights = {key: tensor.float() for key, tensor in weights.items()}
    model.load_state_dict(weights)
    return model, shape


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"segmenter.path: no file {path}; give a folder with config.json and "
            "model.safetensors, or a SAM 2.1 checkpoint (.pt) together with segmenter.config"
        )
    return path


def _read_shape(path: Path) -> Shape:
    config = json.loads(_existing(path).read_text())
    if config.get("model_type") != MODEL_TYPE or "shape" not in config:
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}: "
            f"not a segmenter ({MODEL_TYPE!r}) folder"
        )
    # JSON has lists for tuples.
    fields: dict[str, Any] = {}
    for key, value in config["shape"].items():
        fields[key] = tuple(value) if isinstance(value, list) else value
    return Shape(**fields)


def _official_shape(name: str) -> Shape:
    if name not in OFFICIAL:
        raise ValueError(
            f"segmenter.config: {name!r} is not an official SAM 2.1 shape; "
            f"choose one of {sorted(OFFICIAL)}"
        )
    return OFFICIAL[name]


def _check_weights(
    path: Path,
    name: str,
    expected: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Refuse weights of other shapes, with one of them named; `load_state_dict` names them all."""
    wrong = []
    for key in dict.fromkeys([*expected, *given]):
        in_both = key in expected and key in given
        if not in_both or expected[key].shape != given[key].shape:
            wrong.append(key)
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} weights do not fit the shape {name or 'of its config.json'}, "
            f"e.g. {wrong[0]!r}; "
            f"set segmenter.config to the checkpoint's own shape (SAM 2.1: {sorted(OFFICIAL)})"
        )
