"""The `Segmenter` protocol on SAM 2, official or tiny.

An object is followed by two tracks with a memory of their own, forward and backward: SAM 2's own
backward pass would read the memory of the forward pass, and depend on the order of calls. A track
starts from a box and points, or from a mask drawn by the policy (`DrawnPrompt`). Image features
depend on the frame alone, so all tracks share them, also those of later calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from core.digest import image_digest
from core.drawing.requests import DrawnPrompt
from core.pulse import tick
from core.types import MaskPrompt
from models.segmenters import sam2_build, sam2_track
from models.segmenters.base import (
    AHEAD,
    Frames,
    MaskPiece,
    Prompt,
    Segmenter,
    check_prompts,
    clip_to_frame,
    flush_size,
    mask_prompts,
)
from models.segmenters.onednn import use_onednn
from models.segmenters.sam2_features import CACHE_BYTES, FeatureCache
from models.segmenters.sam2_shape import Shape
from models.segmenters.sam2_track import Maps, Memory

# Decodes masks from features and language tokens: `MaskHead.decode`.
Decode = Callable[[Maps, Tensor], tuple[Tensor, Tensor, Tensor]]

# Returns the mask logits of frame t of some tracks, and remembers them.
TrackStep = Callable[[Maps, int, Memory], Tensor]


# Points of a prompt with three masks, in SAM 2's option for it: any number.
ANY_POINTS = 1 << 30


def load(
    device: str,
    path: str,
    config: str = "",
    multimask: bool = False,
) -> Sam2Segmenter:
    """Load the model by the settings `segmenter.<name>`.

    Args:
        device: cpu or cuda.
        path: a folder or an official checkpoint.
        config: as in `sam2_build.load`.
        multimask: on a prompted frame take the best of three masks by predicted IoU, whatever the
            prompt. Without it three are made for a single point only, as Meta's video predictor
            does.

    Raises:
        ValueError: as `sam2_build.load`, or the model gives one mask only.
    """
    model, shape = sam2_build.load(Path(path), config)
    if multimask and not shape.multimask:
        raise ValueError(
            f"segmenter.multimask=true: the model of {path} gives one mask only; leave it false, "
            "or give an official SAM 2 checkpoint"
        )
    if multimask:
        model.multimask_max_pt_num = ANY_POINTS
    return Sam2Segmenter(model, shape, device)


@dataclass(frozen=True)
class _Clip:
    """A video that is read as it is tracked.

    Attributes:
        number: place among the clips.
        frames: its frames.
        digests: those of the frames read so far.
    """

    number: int
    frames: Frames
    digests: dict[int, str]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        _, height, width = self.frames.shape[:3]
        return height, width


@dataclass(frozen=True)
class _Track:
    """One object in one direction.

    Attributes:
        clip: its video.
        index: index of the prompt among those of its video.
        prompt: start of the track.
        frames: the prompted frame and those after it in this direction.
    """

    clip: _Clip
    index: int
    prompt: Prompt
    frames: range


class Sam2Segmenter(Segmenter):
    """SAM 2 on one device. Official shapes run in half precision on a GPU, as they were trained.

    Differs from the official video predictor in three things: small holes in masks are not filled
    (that needs its CUDA extension), memory is not rounded to bfloat16, and in a video of fewer than
    16 frames the time codes of object pointers are those of a longer one.
    """

    kind = "sam2"

    def __init__(
        self,
        model: SAM2Base,
        shape: Shape,
        device: str = "cpu",
        cache_bytes: int = CACHE_BYTES,
        redraw: Decode | None = None,
    ) -> None:
        """Move the model to its device.

        Args:
            model: the model.
            shape: its shape.
            device: cpu or cuda.
            cache_bytes: size of the cache of image features.
            redraw: decoder of a mask head. With it a drawn mask is drawn anew on every frame, from
                its language token and SAM 2's memory (VideoSEG-O3's inference). Without it SAM 2's
                own decoder follows the first mask.
        """
        self.redraw = redraw
        self.model = model.to(device).eval()
        self.shape = shape
        self.device = torch.device(device)
        if self.device.type == "cpu":
            use_onednn(self.model)
        self.features = FeatureCache(
            self.model, self.device, cache_bytes, like_official=not shape.dense_prompt
        )
        self.half = self.device.type == "cuda" and not shape.dense_prompt

    def track(self, frames: Frames, prompts: Sequence[Prompt]) -> Iterator[MaskPiece]:
        """As `Segmenter.track`. Prompts with equally many points run in one batch."""
        for _, piece in self.track_clips([(frames, prompts)]):
            yield piece

    @torch.inference_mode()
    def track_clips(
        self, clips: Sequence[tuple[Frames, Sequence[Prompt]]]
    ) -> Iterator[tuple[int, MaskPiece]]:
        """As `Segmenter.track_clips`. Prompts with equally many points run in one batch."""
        tracks = []
        for number, (frames, prompts) in enumerate(clips):
            clip = _Clip(number, frames, {})
            check_prompts(prompts, frames.shape[0], self.kind)
            for index, prompt in enumerate(prompts):
                usable = _usable(prompt, *clip.size)
                if usable is not None:
                    tracks += _both_ways(clip, index, usable)

        for batch in _batches(tracks):
            yield from self._follow(batch)

    def _follow(self, tracks: Sequence[_Track]) -> Iterator[tuple[int, MaskPiece]]:
        """Run tracks, longest first; those at their end leave the batch."""
        step = self._step_of(tracks)
        memory = sam2_track.new_memory()
        largest = max((track.clip.size for track in tracks), key=math.prod)
        most = flush_size(*largest)
        last = len(tracks[0].frames) - 1
        # Tracks and times of the masks that wait to be brought to full size.
        waiting: list[tuple[_Track, int]] = []
        logits: list[Tensor] = []
        for t in range(last + 1):
            running = [track for track in tracks if t < len(track.frames)]
            sam2_track.keep_first(memory, len(running))

            with self._precision():
                maps = self._maps(running, t)
                low_B1hw = step(maps, t, memory)
            waiting += [(track, t) for track in running]
            logits += low_B1hw[:, 0]

            if len(waiting) >= most or t == last:
                yield from _pieces(waiting, logits)
                waiting = []
                logits = []

    def _step_of(self, tracks: Sequence[_Track]) -> TrackStep:
        """Return the step of a batch of tracks, all of one kind of prompt."""
        drawn = [track.prompt for track in tracks if isinstance(track.prompt, DrawnPrompt)]
        if not drawn:
            sizes = [track.clip.size for track in tracks]
            return self._step_from_points([track.prompt for track in tracks], sizes)
        if self.redraw is None:
            return self._step_from_masks(drawn)
        return self._step_by_redrawing(drawn, self.redraw)

    def _step_from_points(
        self,
        prompts: Sequence[Prompt],
        sizes: Sequence[tuple[int, int]],
    ) -> TrackStep:
        points = self._points(mask_prompts(prompts), sizes)
        dense = self.shape.dense_prompt

        def step(maps: Maps, t: int, memory: Memory) -> Tensor:
            prompted = points if t == 0 else None
            return sam2_track.step(self.model, maps, t, memory, prompted, dense)

        return step

    def _step_from_masks(self, prompts: Sequence[DrawnPrompt]) -> TrackStep:
        low_B1hw = self._stacked([prompt.logits_hw for prompt in prompts])[:, None]
        dense = self.shape.dense_prompt

        def step(maps: Maps, t: int, memory: Memory) -> Tensor:
            if t == 0:
                return sam2_track.begin(self.model, maps, memory, low_B1hw, dense)
            return sam2_track.step(self.model, maps, t, memory, None, dense)

        return step

    def _step_by_redrawing(self, prompts: Sequence[DrawnPrompt], decode: Decode) -> TrackStep:
        """Raise ValueError if a prompt lacks the language token to redraw it from."""
        tokens = []
        for prompt in prompts:
            if prompt.token_C is None:
                raise ValueError(
                    "a drawn mask came without its language token, which is needed to redraw it"
                )
            tokens.append(prompt.token_C)
        token_BC = self._stacked(tokens)

        def decode_running(maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
            still_running = len(maps[0])
            return decode(maps, token_BC[:still_running])

        def step(maps: Maps, t: int, memory: Memory) -> Tensor:
            return sam2_track.redraw(self.model, maps, t, memory, decode_running)

        return step

    def _stacked(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).float().to(self.device)

    def _maps(self, tracks: Sequence[_Track], t: int) -> Maps:
        """Return features of the tracks' frames at t.

        Pixels of a clip are read only if some are missing, and then of the next frames too.
        """
        # Called for every frame of a track.
        tick()
        soon: dict[int, set[int]] = {}
        for track in tracks:
            if track.clip.digests.get(track.frames[t]) not in self.features.kept:
                soon[track.clip.number] = set()
        for track in tracks:
            if track.clip.number in soon:
                soon[track.clip.number].update(track.frames[t : t + AHEAD])

        clips = {track.clip.number: track.clip for track in tracks}
        ahead: dict[str, np.ndarray] = {}
        for number, numbers in soon.items():
            ahead |= _read(clips[number], sorted(numbers))
        digests = [track.clip.digests[track.frames[t]] for track in tracks]
        return self.features.stacked(digests, ahead)

    @torch.inference_mode()
    def image_masks(
        self,
        frames: Sequence[np.ndarray],
        prompts: Sequence[MaskPrompt],
    ) -> list[np.ndarray]:
        """As `Segmenter.image_masks`. Prompts with equally many points are decoded together."""
        masks = [np.zeros(frame.shape[:2], bool) for frame in frames]
        tracks = []
        for index, (frame, prompt) in enumerate(zip(frames, prompts, strict=True)):
            clip = _Clip(index, frame[None], {0: image_digest(frame)})
            usable = clip_to_frame(prompt, *clip.size)
            if usable is not None:
                tracks.append(_Track(clip, index, usable, range(1)))

        with self._precision():
            for batch in _batches(tracks):
                for start in range(0, len(batch), AHEAD):
                    part = batch[start : start + AHEAD]
                    low_B1hw = self._image_logits(part)
                    tick()
                    for track, low_1hw in zip(part, low_B1hw, strict=True):
                        masks[track.index] = _enlarge(low_1hw, *track.clip.size)[0]
        return masks

    def _image_logits(self, tracks: Sequence[_Track]) -> Tensor:
        """Return mask logits of prompts on single images, (B, 1, S/4, S/4)."""
        digests = [track.clip.digests[0] for track in tracks]
        pixels = {track.clip.digests[0]: track.clip.frames[0:1][0] for track in tracks}
        maps = self.features.stacked(digests, pixels)
        sizes = [track.clip.size for track in tracks]
        points = self._points(mask_prompts([track.prompt for track in tracks]), sizes)
        dense = self.shape.dense_prompt
        memory = sam2_track.new_memory()
        return sam2_track.step(
            self.model,
            maps,
            0,
            memory,
            points,
            dense,
            remember=False,
        )

    def _points(
        self,
        prompts: Sequence[MaskPrompt],
        sizes: Sequence[tuple[int, ...]],
    ) -> dict[str, Tensor]:
        """Return prompts as point inputs; `sizes` are (height, width) of their frames."""
        side = self.shape.image_size
        return sam2_track.point_inputs(
            [prompt.box for prompt in prompts],
            [prompt.points for prompt in prompts],
            [prompt.labels for prompt in prompts],
            [(side / width, side / height) for height, width in sizes],
            self.device,
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


def _usable(prompt: Prompt, height: int, width: int) -> Prompt | None:
    """Return the prompt, cut to the frame; None if no mask could come of it."""
    if isinstance(prompt, MaskPrompt):
        return clip_to_frame(prompt, height, width)
    has_mask = (prompt.logits_hw > 0).any()
    return prompt if has_mask else None


def _both_ways(clip: _Clip, index: int, prompt: Prompt) -> list[_Track]:
    """Return the forward track, and the backward track if the prompt has a past.

    Both start from the prompted frame and agree on its mask.
    """
    forward = range(prompt.frame, clip.frames.shape[0])
    tracks = [_Track(clip, index, prompt, forward)]
    if prompt.frame > 0:
        backward = range(prompt.frame, -1, -1)
        tracks.append(_Track(clip, index, prompt, backward))
    return tracks


def _read(clip: _Clip, numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Read frames of a clip; return them by their digests, which the clip keeps."""
    found = {}
    for run in _runs(numbers):
        pixels = clip.frames[run.start : run.stop]
        for frame, frame_HWC in zip(run, pixels, strict=True):
            digest = image_digest(frame_HWC)
            clip.digests[frame] = digest
            found[digest] = frame_HWC
    return found


def _pieces(
    waiting: Sequence[tuple[_Track, int]], logits: Sequence[Tensor]
) -> Iterator[tuple[int, MaskPiece]]:
    """Yield masks at full size, a piece for each clip.

    Args:
        waiting: track and time of each mask.
        logits: (h, w) of each.
    """
    of_clip: dict[int, list[int]] = {}
    for row, (track, _) in enumerate(waiting):
        of_clip.setdefault(track.clip.number, []).append(row)
    for number, rows in of_clip.items():
        places = []
        for track, t in (waiting[row] for row in rows):
            places.append((track.index, track.frames[t]))
        height, width = waiting[rows[0]][0].clip.size
        masks_NHW = _enlarge(torch.stack([logits[row] for row in rows]), height, width)
        yield number, MaskPiece(tuple(places), masks_NHW)


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Yield ascending, distinct numbers as ranges without gaps."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] > numbers[i - 1] + 1:
            yield range(numbers[start], numbers[i - 1] + 1)
            start = i


def _batches(tracks: Sequence[_Track]) -> Iterator[list[_Track]]:
    """Yield tracks in batches of equally many points, longest first.

    Padding with "no point" tokens would change masks.
    """
    by_count: dict[tuple[int, bool], list[_Track]] = {}
    for track in tracks:
        by_count.setdefault(_point_count(track.prompt), []).append(track)
    for count in sorted(by_count):
        yield sorted(by_count[count], key=lambda track: -len(track.frames))


def _point_count(prompt: Prompt) -> tuple[int, bool]:
    """Return the number of points, and whether it has a box; drawn masks come first."""
    if isinstance(prompt, DrawnPrompt):
        return -1, False
    return len(prompt.points), prompt.box is not None


def _enlarge(logits_Nhw: Tensor, height: int, width: int) -> np.ndarray:
    """Return low-resolution logits as masks of the frame's size, bool (N, H, W)."""
    full_N1HW = F.interpolate(
        logits_Nhw[:, None].float(),
        size=(height, width),
        mode="bilinear",
        align_corners=False,
    )
    return (full_N1HW[:, 0] > 0).cpu().numpy()
