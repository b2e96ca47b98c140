"""Segmenter actors: prompts in, masks of whole videos out; and their pool on the driver.

An actor reads the frames itself, so that only prompts and encoded masks travel. All jobs of one video go to one actor
in one piece: frames are decoded and encoded once, equal prompts are followed once, and all are tracked in one batch. A
long video is read in pieces and its masks are encoded as they come: no array of all its frames is ever held.
Knows no policy, no reward and no ground truth.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from cluster.placement import Placement
from configs.load import resolve
from configs.schema import Config
from core.drawing.requests import DrawnPrompt
from core.masks import encode_frames, union
from core.segmenters import KINDS
from core.types import MaskPrompt, Rle, Video

if (
    TYPE_CHECKING
):  # torch is for the actors: drivers that only hand out work start faster without it
    from models.policy.mask_head import MaskHead
    from models.segmenters.base import Segmenter

Prompts = tuple[MaskPrompt | DrawnPrompt, ...]
Masks = tuple[
    Rle | None, ...
]  # one for each frame: the union over the prompts; None: nothing there

TOGETHER = 16  # prompts of a video that are tracked in one batch
TOGETHER_LONG = 4  # of a long one: each reads ahead at two places
WHOLE_BYTES = 64 << 20  # a video up to this size is read at once: 50 frames of 480 x 854
MAX_ATTEMPTS = 2  # at one video, each ended by the death of an actor


def load_segmenter(cfg: Config, device: str) -> Segmenter:
    """The segmenter of the configuration on a device. Errors as `models.segmenters.make`."""
    import torch

    from models.segmenters import make

    torch.set_num_threads(1)
    settings = asdict(cfg.segmenter)
    for name in KINDS[cfg.segmenter.kind].files:
        settings[name] = str(resolve(settings[name]))
    return make(cfg.segmenter.kind, settings, device)


def redrawing(cfg: Config, segmenter: Segmenter) -> MaskHead:
    """Lets the segmenter draw anew on every frame, with the head that lies in the policy's folder; returns the head."""
    from transformers import AutoConfig

    from models.policy import mask_head
    from models.segmenters.sam2 import Sam2Segmenter

    assert isinstance(segmenter, Sam2Segmenter), "configs.load sees to it"
    folder = resolve(cfg.policy.path)
    width = AutoConfig.from_pretrained(folder).get_text_config().hidden_size
    head = mask_head.load(folder, segmenter.model, width).to(segmenter.device).eval()
    segmenter.redraw = head.decode
    return head


def masks_on_own_frames(
    segmenter: Segmenter, video: Video, jobs: Sequence[tuple[MaskPrompt, ...]]
) -> list[list[np.ndarray]]:
    """The mask of each prompt on its own frame alone, bool (H, W), job by job. Equal prompts are segmented once."""
    from data.frames.reading import read_frames

    asked = list(dict.fromkeys(prompt for prompts in jobs for prompt in prompts))
    numbers = sorted({prompt.frame for prompt in asked})
    frames = dict(zip(numbers, read_frames(video, numbers), strict=True))
    masks = segmenter.image_masks([frames[prompt.frame] for prompt in asked], asked)
    made = dict(zip(asked, masks, strict=True))
    return [[made[prompt] for prompt in prompts] for prompts in jobs]


def masks_on_all_frames(segmenter: Segmenter, video: Video, jobs: Sequence[Prompts]) -> list[Masks]:
    """Return the masks of each job's prompts on every frame of the video, in order.

    All distinct prompts are tracked together; equal ones once.
    """
    from data.frames.reading import Clip

    asked: list[Any] = list(dict.fromkeys(prompt for prompts in jobs for prompt in prompts))
    clip = Clip(video)
    whole = math.prod(clip.shape) <= WHOLE_BYTES
    frames, together = (clip[:], TOGETHER) if whole and asked else (clip, TOGETHER_LONG)
    tracks: dict[Any, list[Rle | None]] = {prompt: [None] * video.num_frames for prompt in asked}
    for start in range(0, len(asked), together):
        part = asked[start : start + together]
        for piece in segmenter.track(frames, part):
            rles = encode_frames(piece.masks_NHW)
            for (index, frame), rle, mask_HW in zip(
                piece.places, rles, piece.masks_NHW, strict=True
            ):
                tracks[part[index]][frame] = rle if mask_HW.any() else None
    return [
        tuple(union([tracks[p][f] for p in prompts]) for f in range(video.num_frames))
        for prompts in jobs
    ]


class SegmenterActor:
    """Holds one segmenter on its device."""

    def __init__(self, cfg: Config, device: str) -> None:
        self.segmenter = load_segmenter(cfg, device)
        self.head = redrawing(cfg, self.segmenter) if cfg.mask.token and cfg.mask.redraw else None

    def take_head(self, weights: dict[str, np.ndarray]) -> None:
        """Draws with these weights from now on."""
        import torch

        assert self.head is not None, "asked only with mask.redraw"
        self.head.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        )

    def segment(self, video: Video, jobs: Sequence[Prompts]) -> list[Masks]:
        """Masks of each job's prompts on every frame of the video, in order."""
        return masks_on_all_frames(self.segmenter, video, jobs)


@dataclass(frozen=True)
class _Task:
    """All jobs of one video."""

    video: Video
    jobs: tuple[int, ...]  # their indices in what `segment` was given
    attempt: int = 1


class SegmenterPool:
    """Driver side: hands videos to free segmenter actors."""

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        self.placement = placement
        self.head: Any = None  # a reference to its newest weights
        self.workers = [self._start() for _ in range(cfg.segmenter.workers)]

    def _start(self) -> Any:
        worker = (
            ray.remote(SegmenterActor)
            .options(**self.placement.options("segmenter"))
            .remote(self.cfg, self.placement.device)
        )
        if self.head is not None:
            worker.take_head.remote(self.head)
        return worker

    def take_head(self, weights: dict[str, np.ndarray]) -> None:
        """Gives all actors, and those that take their place, the weights that `mask.redraw` draws with."""
        self.head = ray.put(weights)
        ray.get([worker.take_head.remote(self.head) for worker in self.workers])

    def segment(self, jobs: Sequence[tuple[Video, Prompts]]) -> list[Masks]:
        """The masks of each job (a video and the prompts of one episode), in order; all None without prompts.

        Raises what a segmenter raises. The death of an actor costs one more attempt on a fresh one.
        """
        done: list[Masks | None] = [
            (None,) * video.num_frames if not prompts else None for video, prompts in jobs
        ]
        waiting = deque(_by_video(jobs))
        free = deque(range(len(self.workers)))
        running: dict[Any, tuple[_Task, int]] = {}
        while waiting or running:
            while waiting and free:
                task = waiting.popleft()
                worker = free.popleft()
                ref = self.workers[worker].segment.remote(
                    task.video, [jobs[i][1] for i in task.jobs]
                )
                running[ref] = (task, worker)
            [ref], _ = ray.wait(list(running), num_returns=1)
            task, worker = running.pop(ref)
            try:
                for index, masks_F in zip(task.jobs, ray.get(ref), strict=True):
                    done[index] = masks_F
            except ray.exceptions.RayActorError as error:
                waiting.appendleft(self._retry(task, error))
                self.workers[worker] = self._start()
            free.append(worker)
        return [masks_F for masks_F in done if masks_F is not None]

    def _retry(self, task: _Task, error: Exception) -> _Task:
        if task.attempt == MAX_ATTEMPTS:
            raise RuntimeError(
                f"a segmenter actor died {MAX_ATTEMPTS} times at video {task.video.uid!r} (segmenter.kind="
                f"{self.cfg.segmenter.kind}, segmenter.path={self.cfg.segmenter.path}): {error}"
            ) from error
        return _Task(task.video, task.jobs, task.attempt + 1)

    def close(self) -> None:
        """Ends the actors."""
        for worker in self.workers:
            ray.kill(worker)


def _by_video(jobs: Sequence[tuple[Video, Prompts]]) -> list[_Task]:
    """One task for each video that has prompts, in the order of first appearance."""
    indices: dict[Video, list[int]] = {}
    for index, (video, prompts) in enumerate(jobs):
        if prompts:
            indices.setdefault(video, []).append(index)
    return [_Task(video, tuple(found)) for video, found in indices.items()]
