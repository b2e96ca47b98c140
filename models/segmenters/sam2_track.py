"""One step of SAM 2's tracker for a batch of tracks, and the prompts in the form that it reads.

A track is one object followed in one direction from its prompted frame; time t is counted from there, so that a track
backward in time is an ordinary track over reversed frames. It starts from points (`step` at t = 0) or from a mask that
somebody else has drawn (`begin`), or another decoder draws every frame from what this model remembers (`redraw`).
Differentiable: training and inference share this file, which knows neither videos nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

Maps = tuple[
    Tensor, ...
]  # image features of B frames, finest first: (B, C, h, w) at strides 4, 8 and 16
Memory = dict[
    str, dict[int, dict[str, Any]]
]  # SAM2Base's `output_dict`: what a track remembers, by t

DRAWN = (-4.0, 6.0)  # logits of drawn prompts: where nothing is, and on a point
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(frames_BHWC: Tensor, size: int) -> Tensor:
    """uint8 RGB frames to the (B, 3, size, size) input of the image encoder."""
    x = frames_BHWC.permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]


def encode(model: SAM2Base, images_B3SS: Tensor) -> Maps:
    """Image features; nothing in them depends on a prompt or on other frames."""
    return tuple(model.forward_image(images_B3SS)["backbone_fpn"])


def new_memory() -> Memory:
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
    """Masks of frame t of B tracks, (B, 1, S/4, S/4) logits; adds frame t to `memory` unless told not to.

    `points` (from `pack`) at t = 0 only. Logits of a track whose object is not on the frame are all -1024.
    """
    assert (t == 0) == (points is not None)
    flat, sizes, position = _flat(model, maps)
    drawn = (
        draw(
            points["point_coords"] / model.image_size, points["point_labels"], model.image_size // 4
        )
        if points is not None and dense_prompt
        else None
    )
    out, heads, _, _ = model._track_step(
        frame_idx=t,
        is_init_cond_frame=t == 0,
        current_vision_feats=flat,
        current_vision_pos_embeds=[position],
        feat_sizes=sizes,
        point_inputs=points,
        mask_inputs=None,
        output_dict=memory,
        num_frames=1
        << 30,  # constant: a pointer's time code must not depend on how long the video is
        track_in_reverse=False,
        prev_sam_mask_logits=drawn,
    )
    _, _, _, low, high, pointer, score = heads
    out["obj_ptr"] = pointer
    if remember:
        _remember(model, maps, t, memory, out, high, score)
    return low


def begin(
    model: SAM2Base, maps: Maps, memory: Memory, low_B1hw: Tensor, dense_prompt: bool
) -> Tensor:
    """t = 0 of B tracks whose masks are given as logits (B, 1, S/4, S/4), which are also what it returns.

    The object pointer is read off the mask: as SAM 2 does with a mask prompt, or, by a model whose prompts are drawn
    into its mask input (the tiny one has never seen a mask prompt), by drawing it there.
    """
    present_B1 = (low_B1hw > 0).flatten(1).any(1, keepdim=True)
    high = _enlarged(model, low_B1hw)
    if dense_prompt:
        seen = maps[-1] + model.no_mem_embed.reshape(1, -1, 1, 1)
        given = low_B1hw.clamp(*DRAWN)
        pointer = model._forward_sam_heads(
            seen, mask_inputs=given, high_res_features=list(maps[:-1])
        )[5]
    else:
        pointer = model._use_mask_as_output(maps[-1], list(maps[:-1]), (high > 0).float())[5]
    _remember(model, maps, 0, memory, {"obj_ptr": pointer}, high, _score(present_B1))
    return low_B1hw


def redraw(
    model: SAM2Base,
    maps: Maps,
    t: int,
    memory: Memory,
    decode: Callable[[Maps], tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Masks of frame t by `decode(maps)` -> (logits (B, 1, S/4, S/4), output tokens (B, C), _), the coarsest of the
    maps being what the model remembers of the track; adds them to `memory`.

    An object without a positive logit is not there: nothing has taught `decode` SAM 2's object score.
    """
    flat, sizes, position = _flat(model, maps)
    remembered = model._prepare_memory_conditioned_features(
        frame_idx=t,
        is_init_cond_frame=t == 0,
        current_vision_feats=flat[-1:],
        current_vision_pos_embeds=[position],
        feat_sizes=sizes[-1:],
        output_dict=memory,
        num_frames=1 << 30,
    )
    low, token_BC, _ = decode((*maps[:-1], remembered))
    low = low.float()
    present_B1 = (low > 0).flatten(1).any(1, keepdim=True)
    pointer = torch.where(present_B1, model.obj_ptr_proj(token_BC), model.no_obj_ptr)
    _remember(
        model, maps, t, memory, {"obj_ptr": pointer}, _enlarged(model, low), _score(present_B1)
    )
    return low


def _flat(model: SAM2Base, maps: Maps) -> tuple[list[Tensor], list[tuple[int, int]], Tensor]:
    """Maps as SAM 2's own functions want them, (h * w, B, C), their sizes, and the coarsest's position code."""
    flat = [m.flatten(2).permute(2, 0, 1) for m in maps]
    position = model.image_encoder.neck.position_encoding(maps[-1]).flatten(2).permute(2, 0, 1)
    return flat, [(m.shape[2], m.shape[3]) for m in maps], position


def _enlarged(model: SAM2Base, low_B1hw: Tensor) -> Tensor:
    size = (model.image_size, model.image_size)
    return F.interpolate(low_B1hw, size=size, mode="bilinear", align_corners=False)


def _score(present_B1: Tensor) -> Tensor:
    """The object score that SAM 2 gives to a mask prompt."""
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
    flat, sizes, _ = _flat(model, maps)
    prompted: dict[str, Tensor] | None = (
        {} if t == 0 else None
    )  # all that SAM 2 asks: was this frame prompted
    model._encode_memory_in_output(flat, sizes, prompted, True, high, score, out)
    memory["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = out
    _forget(model, t, memory)


def _forget(model: SAM2Base, t: int, memory: Memory) -> None:
    """Drops what no later step reads, so that memory does not grow with the length of the video."""
    memory["non_cond_frame_outputs"].pop(t - model.max_obj_ptrs_in_encoder, None)
    old = memory["non_cond_frame_outputs"].get(t - model.num_maskmem)
    if old is not None:
        old["maskmem_features"] = old["maskmem_pos_enc"] = None


def keep_first(memory: Memory, n: int) -> None:
    """Shrinks a batch of tracks to its first n (those that go on when the others have reached the video's end)."""
    for outputs in memory.values():
        for out in outputs.values():
            out["obj_ptr"] = out["obj_ptr"][:n]
            if out["maskmem_features"] is not None:
                out["maskmem_features"] = out["maskmem_features"][:n]
                out["maskmem_pos_enc"] = [p[:n] for p in out["maskmem_pos_enc"]]


def pack(
    boxes: Sequence[Sequence[float] | None],
    points: Sequence[Sequence[Sequence[float]]],
    labels: Sequence[Sequence[int]],
    scales: Sequence[tuple[float, float]],
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Prompts with equally many points as SAM 2's point inputs: a box is two points labelled 2 and 3, first.

    `scales`: what x and y are multiplied with, to come from the frame's pixels to the model's.
    """
    coords = [
        [*([b[:2], b[2:]] if b is not None else []), *p] for b, p in zip(boxes, points, strict=True)
    ]
    codes = [[*([2, 3] if b is not None else []), *c] for b, c in zip(boxes, labels, strict=True)]
    scale_B12 = torch.tensor(scales, dtype=torch.float32)[:, None]
    return {
        "point_coords": (torch.tensor(coords, dtype=torch.float32) * scale_B12).to(device),
        "point_labels": torch.tensor(codes, dtype=torch.int32).to(device),
    }


def draw(coords_BP2: Tensor, labels_BP: Tensor, grid: int) -> Tensor:
    """Prompts drawn as mask logits, (B, 1, grid, grid): box, points on the object as bumps, points off it as dents.

    Coordinates in [0, 1]. A small model trained for minutes learns where a box is only if it is shown so: with the
    official sparse tokens alone it did not in three minutes, drawn it did at once.
    """
    cells = torch.arange(grid, device=coords_BP2.device, dtype=coords_BP2.dtype)
    xy = coords_BP2 * grid
    distance = (cells[None, None, None, :] + 0.5 - xy[..., 0, None, None]) ** 2 + (
        cells[None, None, :, None] + 0.5 - xy[..., 1, None, None]
    ) ** 2
    bump_BPhw = torch.exp(-distance / 4)
    low, high = DRAWN
    logits = torch.maximum(
        low + 6 * _covered(xy, labels_BP, cells), low + (high - low) * _of(bump_BPhw, labels_BP, 1)
    )
    return (logits - 8 * _of(bump_BPhw, labels_BP, 0))[:, None]


def _of(bump_BPhw: Tensor, labels_BP: Tensor, label: int) -> Tensor:
    return (bump_BPhw * (labels_BP == label)[..., None, None]).amax(1)


def _covered(xy_BP2: Tensor, labels_BP: Tensor, cells: Tensor) -> Tensor:
    """Share of each cell that the box covers, (B, grid, grid); zeros without a box."""
    first = (xy_BP2 * (labels_BP == 2)[..., None]).sum(1)[..., None]
    last = (xy_BP2 * (labels_BP == 3)[..., None]).sum(1)[..., None]
    share_B2g = (torch.minimum(last, cells + 1) - torch.maximum(first, cells)).clamp(0, 1)
    return share_B2g[:, 1, :, None] * share_B2g[:, 0, None, :]
