"""Rewards of VideoSEG-O3 for the last part of the video and the last keyframe of an episode.

A part is half-open, [start, stop); a part with start >= stop is empty. `visible_F` is True on
frames with a mask of the target.

Source: the released code (docs/spec/videoseg_o3.md, Rewards). In mode "as_released" the formulas
are those of the code, in mode "as_intended" those of its names and doc-strings.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mode = Literal["as_released", "as_intended"]

# A part earns from this quality on.
HIT = 0.5


def span_precision(spans_G2: Tensor, visible_F: Tensor) -> Tensor:
    """Return |part and truth| / |part|, the share of frames with the target; float64 (G,).

    The release calls it IoU; it is highest for a part of one frame. With a target never in sight
    every part gives 1; otherwise an empty part gives 0.
    """
    hits_G, lengths_G = _overlap(spans_G2, visible_F)
    return _or_one(hits_G / lengths_G.clamp(min=1), visible_F)


def span_iou(spans_G2: Tensor, visible_F: Tensor) -> Tensor:
    """Return the temporal IoU, |part and truth| / |part or truth| as sets of frames; float64 (G,).

    Edge cases as in `span_precision`.
    """
    hits_G, lengths_G = _overlap(spans_G2, visible_F)
    either_G = lengths_G + visible_F.sum() - hits_G
    return _or_one(hits_G / either_G.clamp(min=1), visible_F)


def span_reward(spans_G2: Tensor, visible_F: Tensor, mode: Mode) -> Tensor:
    """Return `lr_vtg_iou_dense`: q / 2 if q >= .5, else -.5; float64 (G,) in [-.5, .5].

    q is the precision (as_released) or the temporal IoU (as_intended). An empty part earns -.5.
    With a target never in sight, any other part earns .5, in both modes.

    The release reads `end` as the first frame *after* the part, although it shows frames up to and
    including it; the caller decides on the part.
    """
    if mode == "as_released":
        q_G = span_precision(spans_G2, visible_F)
    else:
        q_G = span_iou(spans_G2, visible_F)
    is_part_G = spans_G2[:, 0] < spans_G2[:, 1]
    return torch.where(is_part_G & (q_G >= HIT), HIT * q_G, -0.5)


def keyframe_hit(frames_G: Tensor, visible_F: Tensor) -> Tensor:
    """Return `lr_vtg_keyframe`: 1 for a keyframe with the target, else -1; float64 (G,).

    Args:
        frames_G: frame numbers; -1, or any outside the video, is no keyframe and earns -1.
    """
    inside_G = (frames_G >= 0) & (frames_G < len(visible_F))
    visible_G = visible_F[frames_G.clamp(0, len(visible_F) - 1)]
    return torch.where(visible_G & inside_G, 1.0, -1.0).double()


def _overlap(spans_G2: Tensor, visible_F: Tensor) -> tuple[Tensor, Tensor]:
    """Frames with the target in each part, and all frames of each part."""
    inside = bool(((spans_G2 >= 0) & (spans_G2 <= len(visible_F))).all())
    assert inside, f"a part outside of the video: {spans_G2}"
    starts_G = spans_G2[:, 0]
    stops_G = torch.maximum(spans_G2[:, 0], spans_G2[:, 1])
    # visible_before[i]: visible frames before frame i, for i from 0 to F.
    visible_before = F.pad(visible_F.long().cumsum(0), (1, 0))
    hits_G = visible_before[stops_G] - visible_before[starts_G]
    return hits_G.double(), (stops_G - starts_G).double()


def _or_one(q_G: Tensor, visible_F: Tensor) -> Tensor:
    """`q_G`, or 1 for a target never in sight."""
    return torch.where(visible_F.any(), q_G, 1.0)
