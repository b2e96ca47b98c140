"""Rewards of VideoSEG-O3 for the last span and the last keyframe of an episode.

A span is half-open, [start, stop); a span with start >= stop is empty. `visible_F` is True on
frames with a mask of the target.

Source: the released code (docs/spec/videoseg_o3.md, Rewards).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.reward_mode import RewardMode

# A span earns from this quality on.
HIT = 0.5


def span_precision(spans_G2: Tensor, visible_F: Tensor) -> Tensor:
    """Return |span and truth| / |span|, the share of frames with the target; float64 (G,).

    The release calls it IoU; it is highest for a span of one frame. With a target never in sight
    every span gives 1; otherwise an empty span gives 0. As released in float32, with a millionth in
    the divisor: half of a span of up to 16 frames falls just short of one half.
    """
    hits_G, lengths_G = _overlap(spans_G2, visible_F)
    q_G = hits_G.float() / (lengths_G.float() + 1e-6)
    return _or_one(q_G.double(), visible_F)


def span_iou(spans_G2: Tensor, visible_F: Tensor) -> Tensor:
    """Return the temporal IoU, |span and truth| / |span or truth| as sets of frames; float64 (G,).

    Edge cases as in `span_precision`.
    """
    hits_G, lengths_G = _overlap(spans_G2, visible_F)
    either_G = lengths_G + visible_F.sum() - hits_G
    return _or_one(hits_G / either_G.clamp(min=1), visible_F)


def span_reward(spans_G2: Tensor, visible_F: Tensor, mode: RewardMode) -> Tensor:
    """Return `lr_vtg_iou_dense`: q / 2 if q >= .5, else -.5; float64 (G,) in [-.5, .5].

    q is the precision (as_released) or the temporal IoU (as_intended). An empty span earns -.5.
    With a target never in sight, any other span earns .5, in both modes.

    The release reads `end` as the first frame *after* the span, although it shows frames up to and
    including it; the caller decides on the span.
    """
    if mode == "as_released":
        q_G = span_precision(spans_G2, visible_F)
    else:
        q_G = span_iou(spans_G2, visible_F)
    is_span_G = spans_G2[:, 0] < spans_G2[:, 1]
    return torch.where(is_span_G & (q_G >= HIT), HIT * q_G, -0.5)


def keyframe_hit(frames_G: Tensor, visible_F: Tensor) -> Tensor:
    """Return `lr_vtg_keyframe`: 1 for a keyframe with the target, else -1; float64 (G,).

    Args:
        frames_G: frame numbers; -1, or any outside the video, is no keyframe and earns -1.
    """
    inside_G = (frames_G >= 0) & (frames_G < len(visible_F))
    visible_G = visible_F[frames_G.clamp(0, len(visible_F) - 1)]
    return torch.where(visible_G & inside_G, 1.0, -1.0).double()


def _overlap(spans_G2: Tensor, visible_F: Tensor) -> tuple[Tensor, Tensor]:
    """Frames with the target in each span, and all frames of each span."""
    inside = bool(((spans_G2 >= 0) & (spans_G2 <= len(visible_F))).all())
    assert inside, f"a span outside of the video: {spans_G2}"
    starts_G = spans_G2[:, 0]
    stops_G = torch.maximum(spans_G2[:, 0], spans_G2[:, 1])
    # visible_before[i]: visible frames before frame i, for i from 0 to F.
    visible_before = F.pad(visible_F.long().cumsum(0), (1, 0))
    hits_G = visible_before[stops_G] - visible_before[starts_G]
    return hits_G.double(), (stops_G - starts_G).double()


def _or_one(q_G: Tensor, visible_F: Tensor) -> Tensor:
    """`q_G`, or 1 for a target never in sight."""
    return torch.where(visible_F.any(), q_G, 1.0)
