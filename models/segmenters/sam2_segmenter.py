"""The `models.segmenters.base.Segmenter` protocol on SAM 2, official or tiny.

An object is followed by two tracks with a memory of their own, forward and backward; SAM 2's own backward pass would
read what the forward pass remembered, and depend on the order of calls. A track starts from a box and points, or from
a mask that a policy has drawn (`DrawnPrompt`). Image features depend on the frame alone, so
all tracks share them, also those of later calls on the same video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base

from core.digest import image_digest
from core.drawing.requests import DrawnPrompt
from core.types import MaskPrompt
from models.segmenters import sam2_track
from models.segmenters.base import AHEAD, Frames, Piece, Segmenter, check, flush_size, inside
from models.segmenters.sam2_build import Shape
from models.segmenters.sam2_features import CACHE_BYTES, FeatureCache
from models.segmenters.sam2_track import Maps, Memory

Decode = Callable[
    [Maps, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]
]  # `MaskHead.decode`
Step = Callable[[Maps, int, Memory], torch.Tensor]  # masks of frame t of some tracks, remembered


@dataclass(frozen=True)
class _Track:
    """One object in one direction; `frames[0]` is the prompted one."""

    index: int  # of the prompt
    prompt: Any  # MaskPrompt | DrawnPrompt
    frames: range


class Sam2Segmenter(Segmenter):
    """SAM 2, official or tiny, on one device. Half precision on a GPU for the official shapes, as they were made.

    As the official video predictor does it, but for two things: frames are resized as its image predictor does
    (bilinear, antialiased), and small holes in masks are not filled (that needs its CUDA extension).

    `redraw`: of a mask head; a drawn mask is then drawn anew from its language token on every frame, from what SAM 2
    remembers there (VideoSEG-O3's inference). Without it SAM 2's own decoder follows the first mask, and a trained
    head need not be at hand here.
    """

    def __init__(
        self,
        model: SAM2Base,
        shape: Shape,
        device: str = "cpu",
        cache_bytes: int = CACHE_BYTES,
        redraw: Decode | None = None,
    ) -> None:
        self.redraw = redraw
        self.model = model.to(device).eval()
        self.shape = shape
        self.device = torch.device(device)
        self.features = FeatureCache(self.model, self.device, cache_bytes)
        self.half = self.device.type == "cuda" and not shape.dense_prompt

    @torch.inference_mode()
    def track(self, frames: Frames, prompts: Sequence[MaskPrompt | DrawnPrompt]) -> Iterator[Piece]:
        """As `Segmenter.track`. Prompts with equally many points run in one batch, both directions together."""
        num_frames, height, width = frames.shape[:3]
        check(prompts, num_frames, drawn=True)
        keys: dict[int, str] = {}  # digests of the frames that were read so far
        tracks = [
            t
            for i, p in enumerate(prompts)
            for t in _tracks(i, _usable(p, height, width), num_frames)
        ]
        for batch in _alike(tracks):
            yield from self._follow(frames, keys, batch)

    def _follow(
        self, frames: Frames, keys: dict[int, str], tracks: Sequence[_Track]
    ) -> Iterator[Piece]:
        """Runs tracks, longest first; those that have reached their end leave the batch."""
        size_HW = frames.shape[1:3]
        memory = sam2_track.new_memory()
        num = len(tracks)
        places: list[tuple[int, int]] = []
        waiting: list[torch.Tensor] = []
        step = (
            self._redraw_step(tracks)
            if isinstance(tracks[0].prompt, DrawnPrompt)
            else self._step(tracks, size_HW)
        )
        for t in range(len(tracks[0].frames)):
            now = [track for track in tracks if t < len(track.frames)]
            if len(now) < num:
                num = len(now)
                sam2_track.keep_first(memory, num)
            with self._precision():
                maps = self._maps(frames, keys, now, t)
                low = step(maps, t, memory)
            places += [(track.index, track.frames[t]) for track in now]
            waiting += low[:, 0]
            if len(waiting) >= flush_size(*size_HW) or t == len(tracks[0].frames) - 1:
                yield Piece(tuple(places), _enlarge(torch.stack(waiting), *size_HW))
                places = []
                waiting = []

    def _step(self, tracks: Sequence[_Track], size_HW: tuple[int, ...]) -> Step:
        points = self._points([t.prompt for t in tracks], [size_HW] * len(tracks))
        dense = self.shape.dense_prompt
        return lambda maps, t, memory: sam2_track.step(
            self.model, maps, t, memory, None if t else points, dense
        )

    def _redraw_step(self, tracks: Sequence[_Track]) -> Step:
        """Of tracks that start from a drawn mask. Raises ValueError if one is to be redrawn and has no token."""
        as_tensor = lambda arrays: torch.from_numpy(np.stack(arrays)).float().to(self.device)
        dense = self.shape.dense_prompt
        decode = self.redraw
        if decode is None:
            low_B1hw = as_tensor([t.prompt.logits_hw for t in tracks])[:, None]
            return lambda maps, t, memory: (
                sam2_track.step(self.model, maps, t, memory, None, dense)
                if t
                else sam2_track.begin(self.model, maps, memory, low_B1hw, dense)
            )
        if any(t.prompt.token_C is None for t in tracks):
            raise ValueError(
                "a drawn mask came without its language token, which is needed to redraw it"
            )
        token_BC = as_tensor([t.prompt.token_C for t in tracks])
        return lambda maps, t, memory: sam2_track.redraw(
            self.model, maps, t, memory, lambda seen: decode(seen, token_BC[: len(seen[0])])
        )

    def _maps(self, frames: Frames, keys: dict[int, str], tracks: Sequence[_Track], t: int) -> Maps:
        """Features of the tracks' frames at t. Only if some are missing, pixels are read: of the next frames too."""
        now = [track.frames[t] for track in tracks]
        ahead = {}
        if any(keys.get(f) not in self.features.kept for f in now):
            soon = sorted({f for track in tracks for f in track.frames[t : t + AHEAD]})
            for run in _runs(soon):
                for f, frame_HWC in zip(run, frames[run.start : run.stop], strict=True):
                    keys[f] = image_digest(frame_HWC)
                    ahead[keys[f]] = frame_HWC
        return self.features.stacked([keys[f] for f in now], ahead)

    @torch.inference_mode()
    def image_masks(
        self, frames: Sequence[np.ndarray], prompts: Sequence[MaskPrompt]
    ) -> list[np.ndarray]:
        """As `Segmenter.image_masks`: prompts with equally many points are decoded together, an image encoded once."""
        masks = [np.zeros(frame.shape[:2], bool) for frame in frames]
        asked = [
            (i, inside(p, *f.shape[:2]))
            for i, (f, p) in enumerate(zip(frames, prompts, strict=True))
        ]
        tracks = [_Track(i, p, range(1)) for i, p in asked if p is not None]
        keys = [image_digest(frame) for frame in frames]
        with self._precision():
            for alike in _alike(tracks):
                for start in range(0, len(alike), AHEAD):
                    batch = alike[start : start + AHEAD]
                    low = self._image_logits(
                        [frames[t.index] for t in batch], [keys[t.index] for t in batch], batch
                    )
                    for track, row in zip(batch, low, strict=True):
                        masks[track.index] = _enlarge(row, *frames[track.index].shape[:2])[0]
        return masks

    def _image_logits(
        self, frames: Sequence[np.ndarray], keys: Sequence[str], tracks: Sequence[_Track]
    ) -> torch.Tensor:
        maps = self.features.stacked(keys, dict(zip(keys, frames, strict=True)))
        points = self._points([t.prompt for t in tracks], [f.shape[:2] for f in frames])
        memory = sam2_track.new_memory()
        dense = self.shape.dense_prompt
        return sam2_track.step(self.model, maps, 0, memory, points, dense, remember=False)

    def _points(
        self, prompts: Sequence[MaskPrompt], sizes: Sequence[tuple[int, ...]]
    ) -> dict[str, torch.Tensor]:
        scales = [
            (self.shape.image_size / width, self.shape.image_size / height)
            for height, width in sizes
        ]
        return sam2_track.pack(
            [p.box for p in prompts],
            [p.points for p in prompts],
            [p.labels for p in prompts],
            scales,
            self.device,
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


def _usable(
    prompt: MaskPrompt | DrawnPrompt, height: int, width: int
) -> MaskPrompt | DrawnPrompt | None:
    """None when nothing is left that could have a mask."""
    if isinstance(prompt, DrawnPrompt):
        return prompt if (prompt.logits_hw > 0).any() else None
    return inside(prompt, height, width)


def _tracks(index: int, prompt: MaskPrompt | DrawnPrompt | None, num_frames: int) -> list[_Track]:
    """Forward (with the prompted frame, whose mask both directions agree on) and, if there is a past, backward."""
    if prompt is None:
        return []
    ways = [range(prompt.frame, num_frames), range(prompt.frame, -1, -1)]
    return [
        _Track(index, prompt, frames)
        for way, frames in enumerate(ways)
        if way == 0 or len(frames) > 1
    ]


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Ascending, distinct numbers as ranges without gaps."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] > numbers[i - 1] + 1:
            yield range(numbers[start], numbers[i - 1] + 1)
            start = i


def _alike(tracks: Sequence[_Track]) -> Iterator[list[_Track]]:
    """Tracks in batches of equally many points, longest first: padding with "no point" tokens would change masks."""
    counts = [
        (len(t.prompt.points), t.prompt.box is not None)
        if isinstance(t.prompt, MaskPrompt)
        else (-1, False)
        for t in tracks
    ]
    for count in sorted(set(counts)):
        same = [t for t, c in zip(tracks, counts, strict=True) if c == count]
        yield sorted(same, key=lambda t: -len(t.frames))


def _enlarge(logits_Nhw: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Low-resolution logits to masks of the frame's size, bool (N, H, W)."""
    full = F.interpolate(
        logits_Nhw[:, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    return (full[:, 0] > 0).cpu().numpy()
