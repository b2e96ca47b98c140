"""A segmenter without weights: OpenCV's GrabCut, with the same colours on every frame.

On videos with objects of their own colour it is as good as a small trained network; on others it
fails altogether. An object is absent if its colours, as against those around it, are not found.
Points without a box select the area of even colour around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from core.pulse import tick
from core.types import MaskPrompt
from models.segmenters.base import (
    Frames,
    MaskPiece,
    Prompt,
    Segmenter,
    check_prompts,
    clip_to_frame,
    flush_size,
    frames_along,
    mask_prompts,
)

# OpenCV's k-means starts at random.
SEED = 0

# Colours are counted in bins of 2**SHIFT grey levels.
SHIFT = 4

# Grey levels by which a colour may differ from that of a point without a box.
EVEN = 24

# How far an object may move or grow in a frame, as a share of the frame's longer side.
REACH = 0.08

# Share of the first mask's pixels. Fewer pixels of the object's colours mean that it is absent.
MIN_SHARE = 0.15


def load(device: str) -> GrabCutSegmenter:
    """Return the segmenter; it always runs on the CPU."""
    return GrabCutSegmenter()


class GrabCutSegmenter(Segmenter):
    """The `Segmenter` protocol on OpenCV alone."""

    kind = "grabcut"

    def track(self, frames: Frames, prompts: Sequence[Prompt]) -> Iterator[MaskPiece]:
        """As `Segmenter.track`, one prompt after the other."""
        num_frames = frames.shape[0]
        check_prompts(prompts, num_frames, self.kind)
        for index, prompt in enumerate(mask_prompts(prompts)):
            frame_HWC = frames[prompt.frame : prompt.frame + 1][0]
            first_HW = self.image_masks([frame_HWC], [prompt])[0]
            yield MaskPiece(((index, prompt.frame),), first_HW[None])

            colours = _colours(frame_HWC, first_HW)
            if colours is None:
                continue
            forward = range(prompt.frame + 1, num_frames)
            backward = range(prompt.frame - 1, -1, -1)
            for way in (forward, backward):
                yield from _track_one_way(frames, index, way, first_HW, colours)

    def image_masks(
        self,
        frames: Sequence[np.ndarray],
        prompts: Sequence[MaskPrompt],
    ) -> list[np.ndarray]:
        """As `Segmenter.image_masks`."""
        masks = []
        for frame, prompt in zip(frames, prompts, strict=True):
            height, width = frame.shape[:2]
            masks.append(_first_mask(frame, clip_to_frame(prompt, height, width)))
            tick()
        return masks


@dataclass(frozen=True)
class _Colours:
    """Colours of object and background on the prompted frame.

    Attributes:
        posterior: P(object | colour) by colour bin, float32 (n, n, n).
        background, foreground: GrabCut's colour mixtures, (1, 65) each.
        area: pixels of the object.
    """

    posterior: np.ndarray
    background: np.ndarray
    foreground: np.ndarray
    area: int


def _track_one_way(
    frames: Frames,
    index: int,
    way: range,
    first_HW: np.ndarray,
    colours: _Colours,
) -> Iterator[MaskPiece]:
    """Yield the masks of one object along `way`."""
    size = flush_size(*first_HW.shape)
    masks = _follow(frames_along(frames, way), first_HW, colours)
    for start in range(0, len(way), size):
        part = way[start : start + size]
        places = tuple((index, frame) for frame in part)
        yield MaskPiece(places, np.stack([next(masks) for _ in part]))


def _first_mask(frame_HWC: np.ndarray, prompt: MaskPrompt | None) -> np.ndarray:
    """Return the mask on the prompted frame; empty without a prompt."""
    height, width = frame_HWC.shape[:2]
    if prompt is None:
        return np.zeros((height, width), bool)
    if prompt.box is not None:
        trimap = _trimap_of_box(prompt, height, width)
    else:
        trimap = _trimap_of_points(frame_HWC, prompt)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        value = cv2.GC_FGD if label else cv2.GC_BGD
        cv2.circle(trimap, (int(x), int(y)), 2, (value,), -1)

    likely = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
    # A box as large as the frame leaves no background to learn from.
    if likely.all() or not likely.any():
        return likely
    background = np.zeros((1, 65))
    foreground = np.zeros((1, 65))
    mask = _grabcut(frame_HWC, trimap, background, foreground, 3, cv2.GC_INIT_WITH_MASK)
    return mask if mask.any() else likely


def _trimap_of_box(prompt: MaskPrompt, height: int, width: int) -> np.ndarray:
    """Mark "perhaps object" inside the box, at least one whole pixel, and background outside."""
    assert prompt.box is not None
    x0, y0, x1, y1 = prompt.box
    left = min(int(x0), width - 1)
    top = min(int(y0), height - 1)
    right = max(round(x1), left + 1)
    bottom = max(round(y1), top + 1)
    trimap = np.full((height, width), cv2.GC_BGD, np.uint8)
    trimap[top:bottom, left:right] = cv2.GC_PR_FGD
    return trimap


def _trimap_of_points(frame_HWC: np.ndarray, prompt: MaskPrompt) -> np.ndarray:
    """Mark the even colour around points on the object as "perhaps object".

    Its surroundings are "perhaps background".
    """
    height, width = frame_HWC.shape[:2]
    filled = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    tolerance = (EVEN,) * 3
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        if not label:
            continue
        column = min(max(int(x), 0), width - 1)
        row = min(max(int(y), 0), height - 1)
        cv2.floodFill(
            frame_HWC.copy(),
            filled,
            (column, row),
            (0, 0, 0),
            tolerance,
            tolerance,
            flags,
        )

    filled = filled[1:-1, 1:-1]
    around = cv2.dilate(filled, _ball(filled.shape))
    trimap = np.where(around > 0, cv2.GC_PR_BGD, cv2.GC_BGD)
    trimap = np.where(filled > 0, cv2.GC_PR_FGD, trimap)
    return trimap.astype(np.uint8)


def _ball(shape: tuple[int, ...]) -> np.ndarray:
    """Return the reach of an object's motion and growth from one frame to the next."""
    reach = max(3, round(REACH * max(shape)))
    side = 2 * reach + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _grabcut(
    frame_HWC: np.ndarray,
    trimap: np.ndarray,
    background: np.ndarray,
    foreground: np.ndarray,
    rounds: int,
    mode: int,
) -> np.ndarray:
    """Return GrabCut's mask, bool (H, W); adapts the colour mixtures unless `mode` freezes them."""
    cv2.setRNGSeed(SEED)
    trimap = trimap.copy()
    frame = np.ascontiguousarray(frame_HWC)
    cv2.grabCut(frame, trimap, None, background, foreground, rounds, mode)
    return (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)


def _colours(frame_HWC: np.ndarray, mask_HW: np.ndarray) -> _Colours | None:
    """Return the colours of object and background; None if one of them is empty."""
    if not mask_HW.any() or mask_HW.all():
        return None
    background = np.zeros((1, 65))
    foreground = np.zeros((1, 65))
    trimap = np.where(mask_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    _grabcut(frame_HWC, trimap, background, foreground, 1, cv2.GC_INIT_WITH_MASK)
    on = _histogram(frame_HWC[mask_HW])
    off = _histogram(frame_HWC[~mask_HW])
    posterior = on / (on + off + 1e-4)
    return _Colours(posterior, background, foreground, area=int(mask_HW.sum()))


def _histogram(colours_N3: np.ndarray) -> np.ndarray:
    """Return a colour histogram, largest bin 1, blurred to admit a little noise and shading."""
    n = 256 >> SHIFT
    r, g, b = (colours_N3.astype(np.int64) >> SHIFT).T
    bins = (r * n + g) * n + b
    counts = np.bincount(bins, minlength=n**3).astype(np.float32).reshape(n, n, n)
    blurred = gaussian_filter(counts, 0.8, mode="constant")
    return blurred / blurred.max()


def _follow(
    frames: Iterable[np.ndarray],
    first_HW: np.ndarray,
    colours: _Colours,
) -> Iterator[np.ndarray]:
    """Yield masks frame by frame: near the last mask, or anywhere after the object was lost."""
    ball = _ball(first_HW.shape)
    speck = np.ones((3, 3), np.uint8)
    last = first_HW
    for frame_HWC in frames:
        r, g, b = np.moveaxis(frame_HWC >> SHIFT, -1, 0)
        likely = (colours.posterior[r, g, b] > 0.5).astype(np.uint8)
        likely = cv2.morphologyEx(likely, cv2.MORPH_OPEN, speck) > 0
        if last.any():
            near = cv2.dilate(last.astype(np.uint8), ball) > 0
            seen = likely & near
        else:
            seen = _largest_part(likely)

        last = np.zeros_like(first_HW)
        if _enough(seen, colours):
            last = _refine(frame_HWC, seen, ball, colours)
        yield last


def _enough(mask_HW: np.ndarray, colours: _Colours) -> bool:
    """Return whether a mask is large enough to be the object."""
    return int(mask_HW.sum()) >= max(9, MIN_SHARE * colours.area)


def _largest_part(mask_HW: np.ndarray) -> np.ndarray:
    """Return the largest connected part of a mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    if count == 1:
        return mask_HW
    # Label 0 is the background.
    areas = stats[1:, cv2.CC_STAT_AREA]
    return labels == 1 + int(areas.argmax())


def _refine(
    frame_HWC: np.ndarray,
    seen_HW: np.ndarray,
    ball: np.ndarray,
    colours: _Colours,
) -> np.ndarray:
    """Return GrabCut's mask around the seen pixels, by the colours of the prompted frame."""
    around = cv2.dilate(seen_HW.astype(np.uint8), ball) > 0
    trimap = np.where(around, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    trimap[seen_HW] = cv2.GC_PR_FGD
    background = colours.background.copy()
    foreground = colours.foreground.copy()
    mask = _grabcut(frame_HWC, trimap, background, foreground, 1, cv2.GC_EVAL_FREEZE_MODEL)
    return mask if _enough(mask, colours) else np.zeros_like(mask)
