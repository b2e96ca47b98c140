"""One step of SAM 2's tracker for a batch of tracks, and prompts in the form it reads.

A track is one object followed in one direction from its prompted frame. Time t is counted from
there, so a track backward in time is an ordinary track over reversed frames. It starts from points
(`step` at t = 0) or from a given mask (`begin`), or another decoder makes the mask of every frame
from what this model remembers (`redraw`). Differentiable: training and inference share this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

# Image features of B frames, finest first: (B, C, h, w) at strides 4, 8 and 16.
Maps = tuple[Tensor, ...]

# (height, width) of each level.
Sizes = list[tuple[int, int]]

# What a track remembers, by t: the `output_dict` of SAM2Base.
Memory = dict[str, dict[int, dict[str, Any]]]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Logits of prompts in the mask input: away from all of them, and on a point.
PROMPT_LOGITS = (-4.0, 6.0)

# SAM 2's labels of the corners of a box.
BOX_LABELS = (2, 3)

# Given as the video's length at every step: a pointer's time code must not depend on how long the
# video is.
ANY_LENGTH = 1 << 30


def normalise(frames_BHWC: Tensor, size: int) -> Tensor:
    """Return uint8 RGB frames as input of the image encoder, (B, 3, size, size)."""
    x = frames_BHWC.permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(
        x,
        size=(size, size),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    mean = x.new_tensor(MEAN)[:, None, None]
    std = x.new_tensor(STD)[:, None, None]
    return (x - mean) / std


def encode(model: SAM2Base, images_B3SS: Tensor) -> Maps:
    """Return image features; nothing in them depends on a prompt or on other frames."""
    return tuple(model.forward_image(images_B3SS)["backbone_fpn"])


def new_memory() -> Memory:
    """Return the memory of tracks before their first frame."""
    return {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}


def step(
    model: SAM2Base,
    maps: Maps,
    t: int,
    memory: Memory,
    points: dict[str, Tensor] | None,
    dense_prompt: bool,
    remember: bool = True,
) -> Tensor:
    """Return mask logits of frame t of B tracks, (B, 1, S/4, S/4); all -1024 for an absent object.

    Args:
        model: SAM 2.
        maps: features of the tracks' frames at t.
        t: time since the prompted frame.
        memory: the tracks' memory; frame t is added.
        points: prompts from `point_inputs`, at t = 0 only.
        dense_prompt: write the prompts into the mask input as well.
        remember: add frame t to `memory`.
    """
    prompted = points is not None
    assert prompted == (t == 0)
    prompt_B1hw = None
    if points is not None and dense_prompt:
        coords = points["point_coords"] / model.image_size
        prompt_B1hw = prompt_logits(coords, points["point_labels"], model.image_size // 4)

    flat, sizes, position = _flat(model, maps)
    out, heads, _, _ = model._track_step(
        frame_idx=t,
        is_init_cond_frame=prompted,
        current_vision_feats=flat,
        current_vision_pos_embeds=[position],
        feat_sizes=sizes,
        point_inputs=points,
        mask_inputs=None,
        output_dict=memory,
        num_frames=ANY_LENGTH,
        track_in_reverse=False,
        prev_sam_mask_logits=prompt_B1hw,
    )
    _, _, _, low, high, pointer, score = heads
    out["obj_ptr"] = pointer
    if remember:
        _remember(model, maps, t, memory, out, high, score)
    return low


def begin(
    model: SAM2Base,
    maps: Maps,
    memory: Memory,
    low_B1hw: Tensor,
    dense_prompt: bool,
) -> Tensor:
    """Start B tracks at t = 0 from given mask logits (B, 1, S/4, S/4), and return these.

    The object pointer is read off the mask, as SAM 2 does with a mask prompt. A model with dense
    prompts (the tiny one) has never seen a mask prompt; there the mask goes into the mask input.
    """
    present_B1 = (low_B1hw > 0).flatten(1).any(1, keepdim=True)
    high = _enlarge(model, low_B1hw)
    if dense_prompt:
        remembered = maps[-1] + model.no_mem_embed.reshape(1, -1, 1, 1)
        heads = model._forward_sam_heads(
            remembered,
            mask_inputs=low_B1hw.clamp(*PROMPT_LOGITS),
            high_res_features=list(maps[:-1]),
        )
    else:
        mask = (high > 0).float()
        heads = model._use_mask_as_output(maps[-1], list(maps[:-1]), mask)
    pointer = heads[5]
    _remember(model, maps, 0, memory, {"obj_ptr": pointer}, high, _score(present_B1))
    return low_B1hw


def redraw(
    model: SAM2Base,
    maps: Maps,
    t: int,
    memory: Memory,
    decode: Callable[[Maps], tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Return mask logits of frame t by another decoder, and add them to `memory`.

    An object without a positive logit is absent: nothing has taught `decode` SAM 2's object score.

    Args:
        model: SAM 2.
        maps: features of the tracks' frames at t.
        t: time since the prompted frame.
        memory: the tracks' memory.
        decode: gets `maps` with the coarsest conditioned on the memory; returns logits
            (B, 1, S/4, S/4), output tokens (B, C), and a third, unused value.
    """
    flat, sizes, position = _flat(model, maps)
    conditioned = model._prepare_memory_conditioned_features(
        frame_idx=t,
        is_init_cond_frame=t == 0,
        current_vision_feats=flat[-1:],
        current_vision_pos_embeds=[position],
        feat_sizes=sizes[-1:],
        output_dict=memory,
        num_frames=ANY_LENGTH,
    )
    low, token_BC, _ = decode((*maps[:-1], conditioned))
    low = low.float()
    present_B1 = (low > 0).flatten(1).any(1, keepdim=True)
    pointer = torch.where(present_B1, model.obj_ptr_proj(token_BC), model.no_obj_ptr)
    high = _enlarge(model, low)
    _remember(model, maps, t, memory, {"obj_ptr": pointer}, high, _score(present_B1))
    return low


def _flat(model: SAM2Base, maps: Maps) -> tuple[list[Tensor], Sizes, Tensor]:
    """Return maps in SAM 2's form (h * w, B, C), their sizes, the coarsest's position code."""
    flat = [level.flatten(2).permute(2, 0, 1) for level in maps]
    sizes = [(level.shape[2], level.shape[3]) for level in maps]
    position = model.image_encoder.neck.position_encoding(maps[-1])
    return flat, sizes, position.flatten(2).permute(2, 0, 1)


def _enlarge(model: SAM2Base, low_B1hw: Tensor) -> Tensor:
    """Return logits at the size of the model's input."""
    size = (model.image_size, model.image_size)
    return F.interpolate(low_B1hw, size=size, mode="bilinear", align_corners=False)


def _score(present_B1: Tensor) -> Tensor:
    """Return SAM 2's object score of a mask prompt."""
    return 20.0 * present_B1.float() - 10.0


def _remember(
    model: SAM2Base,
    maps: Maps,
    t: int,
    memory: Memory,
    out: dict[str, Any],
    high: Tensor,
    score: Tensor,
) -> None:
    """Add frame t to the memory."""
    flat, sizes, _ = _flat(model, maps)
    # SAM 2 looks only at whether this is None: was the frame prompted?
    prompted: dict[str, Tensor] | None = {} if t == 0 else None
    model._encode_memory_in_output(flat, sizes, prompted, True, high, score, out)
    kind = "cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"
    memory[kind][t] = out
    _forget(model, t, memory)


def _forget(model: SAM2Base, t: int, memory: Memory) -> None:
    """Drop entries unread by later steps: memory does not grow with the length of the video."""
    outputs = memory["non_cond_frame_outputs"]
    outputs.pop(t - model.max_obj_ptrs_in_encoder, None)
    old = outputs.get(t - model.num_maskmem)
    if old is not None:
        old["maskmem_features"] = None
        old["maskmem_pos_enc"] = None


def keep_first(memory: Memory, n: int) -> None:
    """Shrink a batch of tracks to its first n: the others have reached the video's end."""
    for outputs in memory.values():
        for out in outputs.values():
            out["obj_ptr"] = out["obj_ptr"][:n]
            if out["maskmem_features"] is not None:
                out["maskmem_features"] = out["maskmem_features"][:n]
                out["maskmem_pos_enc"] = [code[:n] for code in out["maskmem_pos_enc"]]


def point_inputs(
    boxes: Sequence[Sequence[float] | None],
    points: Sequence[Sequence[Sequence[float]]],
    labels: Sequence[Sequence[int]],
    scales: Sequence[tuple[float, float]],
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Return prompts with equally many points as SAM 2's point inputs; a box is two points, first.

    Args:
        boxes: (x0, y0, x1, y1) or None of each prompt, in pixels of its frame.
        points: (x, y) of its points.
        labels: 1 for a point on the object, 0 for one off it.
        scales: factors of x and y, from the frame's pixels to the model's.
        device: device of the tensors.
    """
    all_coords = []
    all_labels = []
    for box, own_points, own_labels in zip(boxes, points, labels, strict=True):
        coords = list(own_points)
        codes = list(own_labels)
        if box is not None:
            coords = [box[:2], box[2:], *coords]
            codes = [*BOX_LABELS, *codes]
        all_coords.append(coords)
        all_labels.append(codes)

    scale_B12 = torch.tensor(scales, dtype=torch.float32)[:, None]
    coords_BP2 = torch.tensor(all_coords, dtype=torch.float32) * scale_B12
    labels_BP = torch.tensor(all_labels, dtype=torch.int32)
    return {"point_coords": coords_BP2.to(device), "point_labels": labels_BP.to(device)}


def prompt_logits(coords_BP2: Tensor, labels_BP: Tensor, grid: int) -> Tensor:
    """Return prompts as mask logits (B, 1, grid, grid): boxes, bumps and dents.

    A point on the object is a bump, a point off it is a dent.

    Coordinates are in [0, 1]. A small model trained for minutes learns where a box is only in this
    form: with the official sparse tokens alone it did not in three minutes.
    """
    cells = torch.arange(grid, device=coords_BP2.device, dtype=coords_BP2.dtype)
    xy = coords_BP2 * grid
    x_BP11 = xy[..., 0, None, None]
    y_BP11 = xy[..., 1, None, None]
    across = cells[None, None, None, :] + 0.5 - x_BP11
    down = cells[None, None, :, None] + 0.5 - y_BP11
    distance_BPhw = across**2 + down**2
    bump_BPhw = torch.exp(-distance_BPhw / 4)

    low, high = PROMPT_LOGITS
    box_Bhw = low + 6 * _covered(xy, labels_BP, cells)
    on_Bhw = low + (high - low) * _highest(bump_BPhw, labels_BP, 1)
    off_Bhw = 8 * _highest(bump_BPhw, labels_BP, 0)
    return (torch.maximum(box_Bhw, on_Bhw) - off_Bhw)[:, None]


def _highest(bump_BPhw: Tensor, labels_BP: Tensor, label: int) -> Tensor:
    """Return the highest bump of the points with this label, (B, grid, grid)."""
    has_label_BP11 = (labels_BP == label)[..., None, None]
    return (bump_BPhw * has_label_BP11).amax(1)


def _covered(xy_BP2: Tensor, labels_BP: Tensor, cells: Tensor) -> Tensor:
    """Return the box's share of each cell, (B, grid, grid); zeros without a box."""
    first_label, last_label = BOX_LABELS
    is_first_BP1 = (labels_BP == first_label)[..., None]
    is_last_BP1 = (labels_BP == last_label)[..., None]
    first_B21 = (xy_BP2 * is_first_BP1).sum(1)[..., None]
    last_B21 = (xy_BP2 * is_last_BP1).sum(1)[..., None]

    stop_B2g = torch.minimum(last_B21, cells + 1)
    start_B2g = torch.maximum(first_B21, cells)
    share_B2g = (stop_B2g - start_B2g).clamp(0, 1)
    across_Bg = share_B2g[:, 0]
    down_Bg = share_B2g[:, 1]
    return down_Bg[:, :, None] * across_Bg[:, None, :]
