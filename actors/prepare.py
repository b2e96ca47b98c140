"""Preparation of a data set, one video at a time, all over the cluster.

Checks and tables run in Ray tasks, the label filter in actors. Results arrive as they are finished
and the caller keeps them, so a kill costs only the videos in flight. A damaged file may crash its
decoder and with it the process; this becomes a problem of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from actors.pool import Pool
from actors.segmenter import load_segmenter
from cluster.placement import Placement
from cluster.refs import Handle, Ref, Where, start_actor
from configs.schema import Config
from core.masks import box, decode
from core.pulse import tick
from core.types import MaskPrompt, Rle, Sample, Target, Video
from data.frames.reading import read_frames
from data.memory import bounded
from data.prepare.keep import Judged, iou
from data.prepare.tables import TargetTable, target_table
from data.prepare.verify import Problem, broken_masks, cannot_check, problems_of_video

# Processes that a video may cost before it counts as a problem.
MAX_ATTEMPTS = 2
# Frames of a video that a judge holds in memory at a time.
FRAMES = 16


@dataclass(frozen=True)
class VideoPiece:
    """A piece of the work: one video with its samples."""

    video: Video
    samples: tuple[Sample, ...]

    @property
    def targets(self) -> dict[str, Target]:
        """Every target of its samples once, by its uid."""
        found: dict[str, Target] = {}
        for sample in self.samples:
            for target in sample.targets:
                found[target.uid] = target
        return found


class VideoResult(NamedTuple):
    """The outcome of the work on one video.

    Attributes:
        made: tables of its objects, or its judgement; None if there is none.
        problems: defects of the video.
    """

    made: list[TargetTable] | Judged | None
    problems: list[Problem]


VideoWork = Callable[[VideoPiece], VideoResult]


def within_memory(work: VideoWork, piece: VideoPiece, megabytes: int) -> VideoResult:
    """Do some work on a video in bounded memory. Whatever goes wrong is a problem of the video."""
    try:
        with bounded(megabytes):
            return work(piece)
    # One odd file must not end the work on all others.
    except Exception as error:
        return VideoResult(None, [Problem(piece.video.uid, cannot_check(piece.video, error))])


def pieces(samples: Sequence[Sample]) -> list[VideoPiece]:
    """Group samples by their video, in the order of the data set."""
    by_video: dict[str, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video.uid, []).append(sample)

    found: list[VideoPiece] = []
    for group in by_video.values():
        found.append(VideoPiece(group[0].video, tuple(group)))
    return found


def check(piece: VideoPiece) -> VideoResult:
    """Check every frame and every mask of a video."""
    return VideoResult(None, problems_of_video(piece.video, piece.samples))


def tables(piece: VideoPiece) -> VideoResult:
    """Make the tables of all objects of a video, except those with broken masks."""
    made: list[TargetTable] = []
    problems: list[Problem] = []
    for target in piece.targets.values():
        broken = broken_masks(piece.video, target)
        for text in broken:
            problems.append(Problem(piece.video.uid, text))
        if not broken:
            made.append(target_table(piece.video.uid, target))
    return VideoResult(made, problems)


class JudgeActor:
    """A judge of labels: compares a segmenter's masks from true boxes with the true masks."""

    def __init__(self, cfg: Config, device: str) -> None:
        self.segmenter = load_segmenter(cfg, device)

    def judge(self, piece: VideoPiece) -> VideoResult:
        """Return the mean IoU (`Judged`) over all objects of a video and all frames with them.

        The segmenter sees one frame and one box at a time, as an image, so the label is judged
        and not the tracker.
        """
        uid = piece.video.uid
        problems: list[Problem] = []
        for target in piece.targets.values():
            for text in broken_masks(piece.video, target):
                problems.append(Problem(uid, text))
        if problems:
            return VideoResult(None, problems)

        ious: list[float] = []
        try:
            for start in range(0, piece.video.num_frames, FRAMES):
                stop = min(start + FRAMES, piece.video.num_frames)
                ious += self._ious(piece, range(start, stop))
                tick()
        except ValueError as unreadable_frames:
            return VideoResult(None, [Problem(uid, str(unreadable_frames))])
        mean: float | None = None
        if ious:
            mean = sum(ious) / len(ious)
        return VideoResult(Judged(uid, len(ious), mean), [])

    def _ious(self, piece: VideoPiece, frames: range) -> list[float]:
        """Return the IoU of every visible object on every one of these frames."""
        labels: list[tuple[int, Rle]] = []
        for target in piece.targets.values():
            for frame in frames:
                rle = target.masks_F[frame]
                if rle is not None and not _is_empty(rle):
                    labels.append((frame, rle))
        if not labels:
            return []

        numbers = sorted({frame for frame, _ in labels})
        images = dict(zip(numbers, read_frames(piece.video, numbers), strict=True))
        shown = [images[frame] for frame, _ in labels]
        prompts = [MaskPrompt(frame, box(rle)) for frame, rle in labels]
        masks = self.segmenter.image_masks(shown, prompts)

        ious: list[float] = []
        for mask_HW, (_, rle) in zip(masks, labels, strict=True):
            ious.append(iou(mask_HW, decode(rle)))
        return ious


class TaskPool(Pool[VideoWork, VideoPiece, VideoResult]):
    """Ray tasks, `prepare.workers` at a time. A worker is only a place for one task."""

    def __init__(self, cfg: Config, placement: Placement, work: VideoWork) -> None:
        self.work = work
        self.memory_mb = cfg.prepare.memory_mb
        self.task = ray.remote(within_memory).options(
            num_cpus=1,
            max_retries=MAX_ATTEMPTS - 1,
            scheduling_strategy="SPREAD",
            runtime_env=placement.runtime_env,
        )
        # Ray itself retries tasks.
        super().__init__(cfg.prepare.workers, attempts=1)

    def start(self, number: int) -> Handle[VideoWork]:
        return TaskPlace(None)

    def send(self, worker: Handle[VideoWork], task: VideoPiece) -> Ref[VideoResult]:
        return self.task.remote(self.work, task, self.memory_mb)

    def give_up(self, task: VideoPiece, error: Exception) -> VideoResult:
        return _died(task)


class TaskPlace(Handle[VideoWork]):
    """A place for one Ray task at a time."""

    def constructed(self) -> Ref[Any]:
        return ray.put(True)

    def where(self) -> Where:
        return Where(0, "", "")

    def kill(self) -> None:
        """Do nothing: a place has no process."""


class JudgePool(Pool[JudgeActor, VideoPiece, VideoResult]):
    """The actors of the label filter, `segmenter.workers` of them.

    Raises:
        Errors of their start.
    """

    kind = "judge"

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        self.placement = placement
        super().__init__(cfg.segmenter.workers, attempts=MAX_ATTEMPTS, watch=placement.watch)

    def start(self, number: int) -> Handle[JudgeActor]:
        options = self.placement.options("judge", self.seats[number])
        return start_actor(JudgeActor, options, self.cfg, self.placement.device)

    def send(self, worker: Handle[JudgeActor], task: VideoPiece) -> Ref[VideoResult]:
        return worker.call(JudgeActor.judge, task)

    def give_up(self, task: VideoPiece, error: Exception) -> VideoResult:
        return _died(task)


def in_tasks(
    cfg: Config,
    placement: Placement,
    work: VideoWork,
    waiting: Sequence[VideoPiece],
) -> Iterator[tuple[VideoPiece, VideoResult]]:
    """Do some work on every video in Ray tasks; yield results as they arrive."""
    with closing(TaskPool(cfg, placement, work)) as pool:
        yield from pool.run(waiting)


def in_judges(
    cfg: Config, placement: Placement, waiting: Sequence[VideoPiece]
) -> Iterator[tuple[VideoPiece, VideoResult]]:
    """Judge the labels of every video in actors; yield results as they arrive.

    Raises:
        RuntimeError: an actor cannot start; with the reason.
    """
    with closing(JudgePool(cfg, placement)) as pool:
        yield from pool.run(waiting)


def _is_empty(rle: Rle) -> bool:
    return box(rle)[2] <= 0


def _died(piece: VideoPiece) -> VideoResult:
    text = (
        f"{piece.video.path}: its process died {MAX_ATTEMPTS} times "
        "(a file that crashes its decoder, or no memory)"
    )
    return VideoResult(None, [Problem(piece.video.uid, text)])
