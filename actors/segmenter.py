"""Segmenter actors and their pool: from prompts to masks of whole videos.

An actor reads the frames itself, so only prompts and encoded masks travel. All episodes on a video
go to one actor together: its frames are decoded and encoded once, and equal prompts are tracked
once, all in one batch. A long video is read in pieces and its masks are encoded as they come, so an
array of all its frames never exists.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import ray

from actors.pool import Pool
from cluster.lost import cause
from cluster.placement import Placement
from cluster.refs import Handle, Ref, start_actor
from configs.load import resolve
from configs.schema import Config
from core.drawing.requests import DrawnPrompt
from core.masks import encode_frames, union
from core.pulse import tick
from core.segmenters import KINDS
from core.types import MaskPrompt, Rle, Video

# Only the actors need torch. A driver that hands out work starts faster without it.
if TYPE_CHECKING:
    from models.policy.mask_head import MaskHead
    from models.segmenters.base import Frames, Prompt, Segmenter

T = TypeVar("T")
Prompts = tuple[MaskPrompt | DrawnPrompt, ...]

# Masks of one episode, a union over its prompts for each frame; None where there is none.
VideoMasks = tuple[Rle | None, ...]

# A video up to this size is decoded at once: 50 frames of 480 x 854.
WHOLE_BYTES = 64 << 20
# Prompts of such a video that are tracked in one batch.
TOGETHER = 16
# The same of a longer video, where every prompt holds frames that were read ahead at two places.
TOGETHER_LONG = 4


def load_segmenter(cfg: Config, device: str) -> Segmenter:
    """Load the configured segmenter onto a device. Raises errors of `models.segmenters.make`."""
    import torch

    from models.segmenters import make

    torch.set_num_threads(1)
    settings = asdict(cfg.segmenter)
    for name in KINDS[cfg.segmenter.kind].files:
        settings[name] = str(resolve(settings[name]))
    return make(cfg.segmenter.kind, settings, device)


def attach_redrawing(cfg: Config, segmenter: Segmenter) -> MaskHead:
    """Let the segmenter draw every frame anew with the policy's mask head; return the head."""
    from models.families import family_of
    from models.policy import mask_head
    from models.segmenters.sam2 import Sam2Segmenter

    assert isinstance(segmenter, Sam2Segmenter), "checked by configs.load"
    folder = resolve(cfg.policy.path)
    width = family_of(folder).hidden_size
    head = mask_head.load(folder, segmenter.model, width, cfg.mask.multimask)
    segmenter.redraw = head.to(segmenter.device).eval().decode
    return head


def masks_on_own_frames(
    segmenter: Segmenter, video: Video, episodes: Sequence[tuple[MaskPrompt, ...]]
) -> list[list[np.ndarray]]:
    """Return the mask of each prompt on its own frame alone, bool (H, W), by episode.

    Equal prompts are segmented once.

    Args:
        episodes: the prompts of each episode.
    """
    from data.frames.reading import read_frames

    prompts = _distinct(episodes)
    numbers = sorted({prompt.frame for prompt in prompts})
    frames = dict(zip(numbers, read_frames(video, numbers), strict=True))
    shown = [frames[prompt.frame] for prompt in prompts]
    masks = dict(zip(prompts, segmenter.image_masks(shown, prompts), strict=True))

    found: list[list[np.ndarray]] = []
    for own_prompts in episodes:
        found.append([masks[prompt] for prompt in own_prompts])
    return found


def masks_on_all_frames(
    segmenter: Segmenter, video: Video, episodes: Sequence[Prompts]
) -> list[VideoMasks]:
    """Track each episode's prompts through the video; return its masks on every frame.

    Equal prompts are tracked once.

    Args:
        episodes: the prompts of each episode.
    """
    from data.frames.reading import Clip

    prompts = _distinct(episodes)
    clip = Clip(video)
    # A short video is decoded at once. A long one is read in pieces, for fewer prompts at a time.
    frames: Frames = clip
    together = TOGETHER_LONG
    if prompts and math.prod(clip.shape) <= WHOLE_BYTES:
        frames = clip[:]
        together = TOGETHER

    tracks: dict[Prompt, list[Rle | None]] = {}
    for prompt in prompts:
        tracks[prompt] = [None] * video.num_frames
    # Masks come in pieces, in any order, and are encoded at once.
    for start in range(0, len(prompts), together):
        batch = prompts[start : start + together]
        for piece in segmenter.track(frames, batch):
            tick()
            rles = encode_frames(piece.masks_NHW)
            for place, rle, mask_HW in zip(piece.places, rles, piece.masks_NHW, strict=True):
                index, frame = place
                if mask_HW.any():
                    tracks[batch[index]][frame] = rle

    found: list[VideoMasks] = []
    for own_prompts in episodes:
        of_prompts = [tracks[prompt] for prompt in own_prompts]
        found.append(_unions(of_prompts, video.num_frames))
    return found


def _unions(tracks: Sequence[Sequence[Rle | None]], num_frames: int) -> VideoMasks:
    """Return the union of some tracks on each frame."""
    masks: list[Rle | None] = []
    for frame in range(num_frames):
        masks.append(union([track[frame] for track in tracks]))
    return tuple(masks)


class SegmenterActor:
    """One segmenter on its device."""

    def __init__(self, cfg: Config, device: str) -> None:
        self.segmenter = load_segmenter(cfg, device)
        self.head: MaskHead | None = None
        if cfg.mask.token and cfg.mask.redraw:
            self.head = attach_redrawing(cfg, self.segmenter)

    def take_head(self, weights: dict[str, np.ndarray]) -> None:
        """Draw with these weights of the mask head from now on."""
        import torch

        assert self.head is not None, "only with mask.redraw"
        state = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        self.head.load_state_dict(state)

    def segment(self, video: Video, episodes: Sequence[Prompts]) -> list[VideoMasks]:
        """Return masks as `masks_on_all_frames` does."""
        return masks_on_all_frames(self.segmenter, video, episodes)


@dataclass(frozen=True)
class VideoTask:
    """All episodes on one video.

    Attributes:
        indices: positions of the episodes in the list given to `SegmenterPool.segment`.
        episodes: the prompts of each of them.
    """

    video: Video
    indices: tuple[int, ...]
    episodes: tuple[Prompts, ...]


class SegmenterPool(Pool[SegmenterActor, VideoTask, list[VideoMasks]]):
    """All segmenter actors, one video at a time each."""

    kind = "segmenter"

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        self.placement = placement
        # Newest weights of the mask head, in the object store.
        self.head_ref: Ref[dict[str, np.ndarray]] | None = None
        super().__init__(cfg.segmenter.workers, watch=placement.watch)

    def start(self, number: int) -> Handle[SegmenterActor]:
        options = self.placement.options("segmenter", self.seats[number])
        worker = start_actor(SegmenterActor, options, self.cfg, self.placement.device)
        if self.head_ref is not None:
            worker.actor.take_head.remote(self.head_ref)
        return worker

    def send(self, worker: Handle[SegmenterActor], task: VideoTask) -> Ref[list[VideoMasks]]:
        return worker.call(SegmenterActor.segment, task.video, task.episodes)

    def give_up(self, task: VideoTask, error: Exception) -> list[VideoMasks]:
        settings = self.cfg.segmenter
        raise RuntimeError(
            f"a segmenter actor died {self.attempts} times at video {task.video.uid!r} "
            f"(segmenter.kind={settings.kind}, segmenter.path={settings.path}); "
            f"the last one: {cause(error)}"
        ) from error

    def take_head(self, weights: dict[str, np.ndarray]) -> None:
        """Give all actors, and their replacements, new weights of the mask head (`mask.redraw`)."""
        calls: dict[Ref[Any], int] = {}
        # An actor that starts meanwhile is among these, or starts with the new weights.
        with self._lock:
            self.head_ref = ray.put(weights)
            for number, worker in self.workers.items():
                calls[worker.actor.take_head.remote(self.head_ref)] = number
        self.wait_for_all(calls)

    def segment(self, episodes: Sequence[tuple[Video, Prompts]]) -> list[VideoMasks]:
        """Return the masks of each episode, in order; all None for one without prompts.

        Args:
            episodes: the video and the prompts of each episode.

        Raises:
            RuntimeError: a video lost its actor MAX_ATTEMPTS times.
            Errors of the segmenter.
        """
        masks: list[VideoMasks] = [(None,) * video.num_frames for video, _ in episodes]
        for task, found in self.run(_tasks_by_video(episodes)):
            for index, masks_F in zip(task.indices, found, strict=True):
                masks[index] = masks_F
        return masks


def _tasks_by_video(episodes: Sequence[tuple[Video, Prompts]]) -> list[VideoTask]:
    """Return a task for each video with prompts, in the order of first appearance."""
    indices: dict[Video, list[int]] = {}
    for index, (video, prompts) in enumerate(episodes):
        if prompts:
            indices.setdefault(video, []).append(index)

    tasks: list[VideoTask] = []
    for video, found in indices.items():
        of_video = tuple(episodes[index][1] for index in found)
        tasks.append(VideoTask(video, tuple(found), of_video))
    return tasks


def _distinct(episodes: Sequence[tuple[T, ...]]) -> list[T]:
    """Return every prompt of some episodes once, in the order of first appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(episodes)))
