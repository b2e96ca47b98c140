"""Boxes and points in, masks of the whole video out: the `Segmenter` protocol, and what all segmenters share.

Each prompt is one object, followed from its own frame to both ends of the video. A video is read in pieces, and its
masks are given out in pieces, in the order in which they are made: what is held does not grow with its length.
This file knows neither Ray, nor where frames come from, nor which segmenters there are (`models.segmenters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.drawing.requests import DrawnPrompt
from core.types import MaskPrompt

AHEAD = 8  # frames that are read ahead in one piece
FLUSH = 64  # masks that are brought to full size and to the CPU together ...
FLUSH_BYTES = 64 << 20  # ... or fewer, where their logits at full size would take more


class Frames(Protocol):
    """A video as `segment` reads it: an array uint8 (F, H, W, 3), or what gives pieces of one (`data.frames.reading.Clip`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, wanted: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Piece:
    """Masks that are ready: bool (N, H, W), and of each the prompt's index and the frame."""

    places: tuple[tuple[int, int], ...]
    masks_NHW: np.ndarray


class Segmenter(Protocol):
    """Makes masks from prompts in the frames' own pixels."""

    def track(self, frames: Frames, prompts: Sequence[MaskPrompt]) -> Iterator[Piece]:
        """Masks of each prompt's object on every frame, in pieces and in any order; a frame that is left out, or whose
        mask is all False, does not show it."""
        ...

    def segment(self, frames: Frames, prompts: Sequence[MaskPrompt]) -> np.ndarray:
        """As `track`, all masks at once: bool (O, F, H, W)."""
        masks_OFHW = np.zeros((len(prompts), *frames.shape[:3]), bool)
        for piece in self.track(frames, prompts):
            for place, mask_HW in zip(piece.places, piece.masks_NHW, strict=True):
                masks_OFHW[place] = mask_HW
        return masks_OFHW

    def image_masks(
        self, frames: Sequence[np.ndarray], prompts: Sequence[MaskPrompt]
    ) -> list[np.ndarray]:
        """The mask of prompts[i] on the image frames[i] alone, bool (H_i, W_i); `prompt.frame` is not looked at."""
        ...


def check(
    prompts: Sequence[MaskPrompt | DrawnPrompt], num_frames: int, drawn: bool = False
) -> None:
    """Raises ValueError for a prompt outside the video or with another number of labels than points, and for a drawn
    mask where the segmenter does not follow one (`drawn`)."""
    for prompt in prompts:
        if not 0 <= prompt.frame < num_frames:
            raise ValueError(f"prompt on frame {prompt.frame} of a video of {num_frames} frames")
        if isinstance(prompt, DrawnPrompt):
            if not drawn:
                raise ValueError(
                    "segmenter.kind: only sam2 follows a mask that the policy has drawn"
                )
        elif len(prompt.points) != len(prompt.labels):
            raise ValueError(
                f"a prompt has {len(prompt.points)} points but {len(prompt.labels)} labels"
            )


def inside(prompt: MaskPrompt, height: int, width: int) -> MaskPrompt | None:
    """The prompt with its box cut at the frame's edges; None when nothing is left that could have a mask."""
    box = prompt.box
    if box is not None:
        x0, x1 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
        y0, y1 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
        box = (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
    if box is None and 1 not in prompt.labels:
        return None
    return MaskPrompt(prompt.frame, box, prompt.points, prompt.labels)


def flush_size(height: int, width: int) -> int:
    """Masks in a piece."""
    return min(max(FLUSH_BYTES // (4 * height * width), 1), FLUSH)
