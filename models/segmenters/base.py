"""The `Segmenter` protocol, and shared parts of all segmenters.

Each prompt is one object, followed from its own frame to both ends of the video. A video is read
in pieces, and its masks are given out in pieces as they are made: memory does not grow with the
length of the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from core.drawing.requests import DrawnPrompt
from core.segmenters import KINDS, kinds_that_follow_drawn
from core.types import MaskPrompt

Prompt = MaskPrompt | DrawnPrompt

# Frames read ahead in one piece.
AHEAD = 8

# Masks brought to full size and to the CPU together; fewer where their logits at full size would
# take more bytes.
FLUSH = 64
FLUSH_BYTES = 64 << 20


class Frames(Protocol):
    """A video: an array uint8 (F, H, W, 3), or a `data.frames.reading.Clip`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, H, W, 3)."""
        ...

    def __getitem__(self, wanted: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class MaskPiece:
    """Finished masks.

    Attributes:
        places: (index of the prompt, frame) of each mask.
        masks_NHW: bool.
    """

    places: tuple[tuple[int, int], ...]
    masks_NHW: np.ndarray


class Segmenter(Protocol):
    """Makes masks from prompts in the pixels of the frames.

    Attributes:
        kind: its name in `core.segmenters.KINDS`.
    """

    kind: ClassVar[str]

    def track(self, frames: Frames, prompts: Sequence[Prompt]) -> Iterator[MaskPiece]:
        """Yield the masks of each prompt's object on every frame, in pieces and in any order.

        A frame without a mask, or with an empty one, does not show the object.

        Raises:
            ValueError: a prompt does not fit the video, or is a drawn mask this kind does not
                follow.
        """
        ...

    def track_clips(
        self, clips: Sequence[tuple[Frames, Sequence[Prompt]]]
    ) -> Iterator[tuple[int, MaskPiece]]:
        """Track on several videos, as `track` does on one; yield the number of the video, too.

        Args:
            clips: each video and its prompts.
        """
        for number, (frames, prompts) in enumerate(clips):
            for piece in self.track(frames, prompts):
                yield number, piece

    def image_masks(
        self,
        frames: Sequence[np.ndarray],
        prompts: Sequence[MaskPrompt],
    ) -> list[np.ndarray]:
        """Return the mask of prompts[i] on the image frames[i] alone, bool (H_i, W_i).

        `prompt.frame` is not used.
        """
        ...

    def segment(self, frames: Frames, prompts: Sequence[Prompt]) -> np.ndarray:
        """As `track`, all masks at once: bool (O, F, H, W)."""
        masks_OFHW = np.zeros((len(prompts), *frames.shape[:3]), bool)
        for piece in self.track(frames, prompts):
            for place, mask_HW in zip(piece.places, piece.masks_NHW, strict=True):
                masks_OFHW[place] = mask_HW
        return masks_OFHW


def check_prompts(prompts: Sequence[Prompt], num_frames: int, kind: str) -> None:
    """Refuse prompts unfit for the video or the kind of segmenter.

    Raises:
        ValueError: a frame outside the video, unequal numbers of points and labels, or a drawn mask
            for a kind unable to follow it.
    """
    for prompt in prompts:
        if not 0 <= prompt.frame < num_frames:
            raise ValueError(f"prompt on frame {prompt.frame} of a video of {num_frames} frames")
        if isinstance(prompt, DrawnPrompt):
            if not KINDS[kind].follows_drawn:
                able = ", ".join(kinds_that_follow_drawn())
                raise ValueError(
                    f"segmenter.kind={kind}: only {able} follows a mask that the policy has drawn"
                )
        elif len(prompt.points) != len(prompt.labels):
            raise ValueError(
                f"a prompt has {len(prompt.points)} points but {len(prompt.labels)} labels"
            )


def mask_prompts(prompts: Sequence[Prompt]) -> list[MaskPrompt]:
    """Return prompts of boxes and points, after `check_prompts` has refused drawn masks."""
    found = []
    for prompt in prompts:
        assert isinstance(prompt, MaskPrompt)
        found.append(prompt)
    return found


def clip_to_frame(prompt: MaskPrompt, height: int, width: int) -> MaskPrompt | None:
    """Return the prompt with its box cut at the frame's edges; None if no object is left."""
    box = prompt.box
    if box is not None:
        x0 = min(max(box[0], 0.0), float(width))
        x1 = min(max(box[2], 0.0), float(width))
        y0 = min(max(box[1], 0.0), float(height))
        y1 = min(max(box[3], 0.0), float(height))
        not_empty = x1 > x0 and y1 > y0
        box = (x0, y0, x1, y1) if not_empty else None
    if box is None and 1 not in prompt.labels:
        return None
    return MaskPrompt(prompt.frame, box, prompt.points, prompt.labels)


def frames_along(frames: Frames, way: range) -> Iterator[np.ndarray]:
    """Yield frames one by one, forward or backward; they are read a few at a time."""
    for start in range(0, len(way), AHEAD):
        part = way[start : start + AHEAD]
        read_nHWC = frames[min(part) : max(part) + 1]
        if way.step < 0:
            read_nHWC = read_nHWC[::-1]
        yield from read_nHWC


def flush_size(height: int, width: int) -> int:
    """Return the number of masks in a piece."""
    fits = FLUSH_BYTES // (4 * height * width)
    return min(max(fits, 1), FLUSH)
