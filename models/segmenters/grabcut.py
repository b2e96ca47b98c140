"""A segmenter without weights: OpenCV's GrabCut from the box, then GrabCut with the same colours on frame after frame.

On videos whose objects differ from the background in colour it ties a small trained network; where they do not, it
fails altogether. It says "absent" where the object's colours, as against those around it, are not found. Points
without a box stand for the even colour around them. This file knows no other model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from core.types import MaskPrompt
from models.segmenters.base import AHEAD, Frames, Piece, Segmenter, check, flush_size, inside

SEED = 0  # of OpenCV's k-means, which starts at random
SHIFT = 4  # colours are counted in bins of 2**SHIFT grey levels
EVEN = 24  # grey levels by which a colour may differ from that of a point without a box
REACH = 0.08  # how far an object may move or grow in a frame, as a share of the frame's longer side
MIN_SHARE = 0.15  # of the first mask's pixels; fewer pixels of the object's colours mean that it is not there


class GrabCutSegmenter(Segmenter):
    """The `models.segmenters.base.Segmenter` protocol on OpenCV alone."""

    def track(self, frames: Frames, prompts: Sequence[MaskPrompt]) -> Iterator[Piece]:
        """As `Segmenter.track`, one prompt after the other."""
        num_frames, height, width = frames.shape[:3]
        check(prompts, num_frames)
        for index, prompt in enumerate(prompts):
            frame_HWC = frames[prompt.frame : prompt.frame + 1][0]
            first = self.image_masks([frame_HWC], [prompt])[0]
            yield Piece(((index, prompt.frame),), first[None])
            look = _look(frame_HWC, first)
            if look is None:
                continue
            for way in (range(prompt.frame + 1, num_frames), range(prompt.frame - 1, -1, -1)):
                masks = _follow(_along(frames, way), first, look)
                for start in range(0, len(way), flush_size(height, width)):
                    part = way[start : start + flush_size(height, width)]
                    yield Piece(
                        tuple((index, f) for f in part), np.stack([next(masks) for _ in part])
                    )

    def image_masks(
        self, frames: Sequence[np.ndarray], prompts: Sequence[MaskPrompt]
    ) -> list[np.ndarray]:
        """As `Segmenter.image_masks`."""
        return [
            _first_mask(frame, inside(p, *frame.shape[:2]))
            for frame, p in zip(frames, prompts, strict=True)
        ]


def _along(frames: Frames, way: range) -> Iterator[np.ndarray]:
    """Frames one by one, forward or backward, read a few at a time."""
    for start in range(0, len(way), AHEAD):
        part = way[start : start + AHEAD]
        read_nHWC = frames[min(part) : max(part) + 1]
        yield from read_nHWC if way.step > 0 else read_nHWC[::-1]


@dataclass(frozen=True)
class _Look:
    """What is remembered of the prompted frame."""

    posterior: np.ndarray  # P(object | colour) by colour bin, float32 (n, n, n)
    background: np.ndarray  # GrabCut's colour mixtures, (1, 65) each
    foreground: np.ndarray
    area: int


def _first_mask(frame_HWC: np.ndarray, prompt: MaskPrompt | None) -> np.ndarray:
    if prompt is None:
        return np.zeros(frame_HWC.shape[:2], bool)
    trimap = (
        _boxed(prompt, *frame_HWC.shape[:2]) if prompt.box is not None else _even(frame_HWC, prompt)
    )
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        cv2.circle(trimap, (int(x), int(y)), 2, (cv2.GC_FGD if label else cv2.GC_BGD,), -1)
    likely = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
    if (
        likely.all() or not likely.any()
    ):  # a box as large as the frame leaves no background to learn from
        return likely
    mask = _grabcut(
        frame_HWC, trimap, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK
    )
    return mask if mask.any() else likely


def _boxed(prompt: MaskPrompt, height: int, width: int) -> np.ndarray:
    """Perhaps object inside the box, widened to whole pixels and at least one; background outside."""
    assert prompt.box is not None
    x0, y0, x1, y1 = prompt.box
    left = min(int(x0), width - 1)
    top = min(int(y0), height - 1)
    trimap = np.full((height, width), cv2.GC_BGD, np.uint8)
    trimap[top : max(round(y1), top + 1), left : max(round(x1), left + 1)] = cv2.GC_PR_FGD
    return trimap


def _even(frame_HWC: np.ndarray, prompt: MaskPrompt) -> np.ndarray:
    """Perhaps object where the colour is that of a point on the object without a break; perhaps not around it."""
    height, width = frame_HWC.shape[:2]
    filled = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        if label:
            seed = (min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1))
            cv2.floodFill(
                frame_HWC.copy(), filled, seed, (0, 0, 0), (EVEN,) * 3, (EVEN,) * 3, flags
            )
    filled = filled[1:-1, 1:-1]
    around = cv2.dilate(filled, _ball(filled.shape))
    return np.where(
        filled > 0, cv2.GC_PR_FGD, np.where(around > 0, cv2.GC_PR_BGD, cv2.GC_BGD)
    ).astype(np.uint8)


def _ball(shape: tuple[int, ...]) -> np.ndarray:
    reach = max(3, round(REACH * max(shape)))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))


def _grabcut(
    frame_HWC: np.ndarray,
    trimap: np.ndarray,
    background: np.ndarray,
    foreground: np.ndarray,
    rounds: int,
    mode: int,
) -> np.ndarray:
    cv2.setRNGSeed(SEED)
    trimap = trimap.copy()
    frame = np.ascontiguousarray(frame_HWC)
    cv2.grabCut(frame, trimap, None, background, foreground, rounds, mode)
    return (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)


def _look(frame_HWC: np.ndarray, mask_HW: np.ndarray) -> _Look | None:
    """The colours of object and background; None when there is nothing of one of them."""
    if not mask_HW.any() or mask_HW.all():
        return None
    background = np.zeros((1, 65))
    foreground = np.zeros((1, 65))
    trimap = np.where(mask_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    _grabcut(frame_HWC, trimap, background, foreground, 1, cv2.GC_INIT_WITH_MASK)
    on = _histogram(frame_HWC[mask_HW])
    off = _histogram(frame_HWC[~mask_HW])
    return _Look(on / (on + off + 1e-4), background, foreground, int(mask_HW.sum()))


def _histogram(colours_N3: np.ndarray) -> np.ndarray:
    """Blurred, so that a little noise or shading does not fall out of it; the largest bin is 1."""
    n = 256 >> SHIFT
    r, g, b = (colours_N3.astype(np.int64) >> SHIFT).T
    counts = np.bincount((r * n + g) * n + b, minlength=n**3).reshape(n, n, n).astype(np.float32)
    blurred = gaussian_filter(counts, 0.8, mode="constant")
    return blurred / blurred.max()


def _follow(frames: Iterable[np.ndarray], first: np.ndarray, look: _Look) -> Iterator[np.ndarray]:
    """Masks frame by frame: near the last mask while the object is seen, anywhere once it was lost."""
    ball = _ball(first.shape)
    last = first
    for frame_HWC in frames:
        r, g, b = np.moveaxis(frame_HWC >> SHIFT, -1, 0)
        likely = (look.posterior[r, g, b] > 0.5).astype(np.uint8)
        likely = cv2.morphologyEx(likely, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
        near = cv2.dilate(last.astype(np.uint8), ball) > 0
        seen = likely & near if last.any() else _largest_part(likely)
        last = _refine(frame_HWC, seen, ball, look) if _enough(seen, look) else np.zeros_like(first)
        yield last


def _enough(mask_HW: np.ndarray, look: _Look) -> bool:
    return int(mask_HW.sum()) >= max(9, MIN_SHARE * look.area)


def _largest_part(mask_HW: np.ndarray) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    if count == 1:
        return mask_HW
    return labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())


def _refine(
    frame_HWC: np.ndarray, seen_HW: np.ndarray, ball: np.ndarray, look: _Look
) -> np.ndarray:
    """GrabCut around what was seen, with the colour mixtures of the prompted frame kept as they are."""
    trimap = np.where(
        cv2.dilate(seen_HW.astype(np.uint8), ball) > 0, cv2.GC_PR_BGD, cv2.GC_BGD
    ).astype(np.uint8)
    trimap[seen_HW] = cv2.GC_PR_FGD
    mask = _grabcut(
        frame_HWC,
        trimap,
        look.background.copy(),
        look.foreground.copy(),
        1,
        cv2.GC_EVAL_FREEZE_MODEL,
    )
    return mask if _enough(mask, look) else np.zeros_like(mask)
