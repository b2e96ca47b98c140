"""Rewards for the part of a video and the keyframe that an episode ends with. Pure functions of tensors.

A part is half-open, [start, stop); one with start >= stop says nothing. `visible_F` is where the target's mask is not
empty. Source: the released code of VideoSEG-O3 (SPEC B.4). Modes: `as_released` is what the code does, `as_intended`
what its names and doc-strings say.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["as_released", "as_intended"]

HIT = 0.5  # from here a part earns


def span_precision(spans_G2: Tensor, visible_F: Tensor) -> Tensor:
    """Share of the part's frames that show the target, |part and truth| / |part|, float64 (G,).

    The release calls it IoU; it is highest for a part of one frame. 1 where the target is never visible, else 0 for a
    part that says nothing.
    """
    hits_G, lengths_G = _overlap(spans_G2, visible_F)
    return _or_one(hits_G / lengths_G.clamp(min=1), visible_F)


def span_iou(spans_G2: Tensor, visible_F: Tensor) -> Tensor:
    """tIoU: |part and truth| / |part or truth| as sets of frames, float64 (G,); edges as in `span_precision`."""
    hits_G, lengths_G = _overlap(spans_G2, visible_F)
    either_G = lengths_G + visible_F.sum() - hits_G
    return _or_one(hits_G / either_G.clamp(min=1), visible_F)


def span_reward(spans_G2: Tensor, visible_F: Tensor, mode: Mode) -> Tensor:
    """`lr_vtg_iou_dense`: q / 2 if q >= .5, else -.5; float64 (G,) in [-.5, .5].

    q is the precision (as_released) or the tIoU (as_intended). A part that says nothing earns -.5, also where the
    target is never visible; any other part earns .5 there, in both modes. The release reads `end` as the first frame
    *after* the part, though it shows frames up to and with it: what a part is, is the caller's.
    """
    q_G = (span_precision if mode == "as_released" else span_iou)(spans_G2, visible_F)
    says_G = spans_G2[:, 0] < spans_G2[:, 1]
    return torch.where(says_G & (q_G >= HIT), HIT * q_G, -0.5)


def keyframe_hit(frames_G: Tensor, visible_F: Tensor) -> Tensor:
    """`lr_vtg_keyframe`: 1 where the keyframe shows the target, else -1; float64 (G,).

    frames_G: frame numbers; -1, or any outside the video, is no keyframe and earns -1.
    """
    inside_G = (frames_G >= 0) & (frames_G < len(visible_F))
    shows_G = visible_F[frames_G.clamp(0, len(visible_F) - 1)] & inside_G
    return torch.where(shows_G, 1.0, -1.0).double()


def _overlap(spans_G2: Tensor, visible_F: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of each part that show the target, and frames of each part."""
    assert bool(((spans_G2 >= 0) & (spans_G2 <= len(visible_F))).all()), (
        f"a part outside of the video: {spans_G2}"
    )
    starts_G = spans_G2[:, 0]
    stops_G = torch.maximum(spans_G2[:, 0], spans_G2[:, 1])
    seen_F = torch.nn.functional.pad(
        visible_F.long().cumsum(0), (1, 0)
    )  # [i]: visible frames before frame i
    return (seen_F[stops_G] - seen_F[starts_G]).double(), (stops_G - starts_G).double()


def _or_one(q_G: Tensor, visible_F: Tensor) -> Tensor:
    return torch.where(visible_F.any(), q_G, 1.0)
