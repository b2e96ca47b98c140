"""SAM 2 on the prompted frame, XMem from there to both ends (VideoSeg-R1, Eq. 4).

An object has one track in each direction, each with a fresh memory: XMem remembers backward and
forward as one past.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from core.pulse import tick
from core.types import MaskPrompt
from models.segmenters import sam2
from models.segmenters.base import (
    Frames,
    MaskPiece,
    Prompt,
    Segmenter,
    check_prompts,
    flush_size,
    frames_along,
    mask_prompts,
)
from models.segmenters.sam2_track import MEAN, STD
from models.segmenters.xmem_checkout import XMem, load_xmem

# Pixels; the default of the official evaluation.
SHORT_SIDE = 480

# On a smaller frame the memory has fewer positions (of 16 x 16 pixels) than XMem picks from it.
LEAST_SIDE = 96


def load(
    device: str,
    path: str,
    xmem_path: str,
    xmem_weights: str,
    config: str = "",
    multimask: bool = False,
    xmem_size: int = SHORT_SIDE,
) -> XMemSegmenter:
    """Load both models; arguments are the settings `segmenter.<name>`.

    Raises:
        ValueError: as `load_xmem` and `models.segmenters.sam2.load`.
    """
    # XMem first: it reports at once what is missing.
    xmem = load_xmem(Path(xmem_path), Path(xmem_weights))
    first = sam2.load(device, path, config, multimask)
    return XMemSegmenter(first, xmem, device, xmem_size)


class XMemSegmenter(Segmenter):
    """Masks of the prompted frames from `first`, all others from XMem.

    XMem runs in half precision on a GPU, as officially. An object with an empty mask on its
    prompted frame is nowhere.
    """

    kind = "sam2_xmem"

    def __init__(
        self,
        first: Segmenter,
        xmem: XMem,
        device: str = "cpu",
        short_side: int = SHORT_SIDE,
    ) -> None:
        """Move XMem to its device.

        Args:
            first: segments the prompted frames.
            xmem: the network.
            device: cpu or cuda.
            short_side: side to which the short side of frames is resized, at least LEAST_SIDE; 0
                keeps their own.
        """
        self.first = first
        self.xmem = xmem
        self.device = torch.device(device)
        self.short_side = short_side
        xmem.network.to(self.device).eval()

    def image_masks(
        self,
        frames: Sequence[np.ndarray],
        prompts: Sequence[MaskPrompt],
    ) -> list[np.ndarray]:
        """As `Segmenter.image_masks`, by `first`."""
        return self.first.image_masks(frames, prompts)

    @torch.inference_mode()
    def track(self, frames: Frames, prompts: Sequence[Prompt]) -> Iterator[MaskPiece]:
        """As `Segmenter.track`, one prompt after the other."""
        num_frames = frames.shape[0]
        check_prompts(prompts, num_frames, self.kind)
        for index, prompt in enumerate(mask_prompts(prompts)):
            frame_HWC = frames[prompt.frame : prompt.frame + 1][0]
            mask_HW = self.image_masks([frame_HWC], [prompt])[0]
            yield MaskPiece(((index, prompt.frame),), mask_HW[None])
            if not mask_HW.any():
                continue
            forward = range(prompt.frame, num_frames)
            backward = range(prompt.frame, -1, -1)
            for way in (forward, backward):
                if len(way) > 1:
                    yield from self._follow(frames, index, way, mask_HW)

    def _follow(
        self,
        frames: Frames,
        index: int,
        way: range,
        mask_HW: np.ndarray,
    ) -> Iterator[MaskPiece]:
        """Yield the masks along `way`, after its first frame with the mask `mask_HW`."""
        core = self.xmem.start(len(way))
        height, width = mask_HW.shape
        last = len(way) - 1
        masks: list[np.ndarray] = []
        for t, frame_HWC in enumerate(frames_along(frames, way)):
            on_gpu = self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.float16, enabled=on_gpu):
                image_3hw = self._image(frame_HWC)
                if t == 0:
                    core.step(image_3hw, self._mask(mask_HW), [1])
                    continue
                prob_2hw = core.step(image_3hw, end=t == last)
            tick()

            masks.append(_object_mask(prob_2hw, height, width))
            if len(masks) == flush_size(height, width) or t == last:
                done = way[t + 1 - len(masks) : t + 1]
                places = tuple((index, frame) for frame in done)
                yield MaskPiece(places, np.stack(masks))
                masks = []

    def _image(self, frame_HWC: np.ndarray) -> torch.Tensor:
        """Return a frame as XMem's input, (3, h, w): normalised, bilinear and antialiased."""
        pixels_HWC = torch.from_numpy(np.ascontiguousarray(frame_HWC)).to(self.device)
        image_3HW = pixels_HWC.permute(2, 0, 1).float() / 255
        mean_3 = image_3HW.new_tensor(MEAN)[:, None, None]
        std_3 = image_3HW.new_tensor(STD)[:, None, None]
        image_3HW = (image_3HW - mean_3) / std_3
        size = self._size(*frame_HWC.shape[:2])
        return F.interpolate(
            image_3HW[None],
            size,
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[0]

    def _mask(self, mask_HW: np.ndarray) -> torch.Tensor:
        """Return a mask at the size of XMem's input, (1, h, w)."""
        mask_11HW = torch.from_numpy(mask_HW)[None, None].to(self.device, torch.float32)
        return F.interpolate(mask_11HW, self._size(*mask_HW.shape), mode="nearest")[0]

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of XMem's input for a frame."""
        short = min(height, width)
        side = max(self.short_side or short, LEAST_SIDE)
        return int(height / short * side), int(width / short * side)


def _object_mask(prob_2hw: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Return the object's pixels at the frame's size, bool (H, W)."""
    full_21HW = F.interpolate(
        prob_2hw[:, None].float(),
        (height, width),
        mode="bilinear",
        align_corners=False,
    )
    background_HW, object_HW = full_21HW[:, 0]
    return (object_HW > background_HW).cpu().numpy()
