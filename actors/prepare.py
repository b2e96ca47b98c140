"""Work on one video at a time, all over the cluster: checks and tables in Ray tasks, the label filter in actors.

Every piece is one video, and results arrive as they are finished: the caller keeps them, so that nothing but the pieces
in flight is lost with a kill. A video that ends its process (a decoder may crash on a damaged file) is a result too.
Knows no file format and writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.segmenter import load_segmenter
from cluster.placement import Placement
from configs.schema import Config
from core.masks import box, decode
from core.types import MaskPrompt, Rle, Sample, Target, Video
from data.frames.reading import read_frames
from data.prepare.keep import Judged, iou
from data.prepare.tables import TargetTable, target_table
from data.prepare.verify import Problem, broken_masks, problems_of_video

MAX_ATTEMPTS = 2  # at one video, each ended by the death of a process
FRAMES = 16  # of a video that are in memory at a time


@dataclass(frozen=True)
class Piece:
    """One video with its samples."""

    video: Video
    samples: tuple[Sample, ...]

    @property
    def targets(self) -> dict[str, Target]:
        """Every object that a sample means, once."""
        return {target.uid: target for sample in self.samples for target in sample.targets}


Result = tuple[
    Any, list[Problem]
]  # what was worked out (None if it cannot be), and what is wrong with the video


def pieces(samples: Sequence[Sample]) -> list[Piece]:
    """The samples by their video, in the order of the data set."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.video.uid, []).append(sample)
    return [Piece(several[0].video, tuple(several)) for several in found.values()]


def check(piece: Piece) -> Result:
    return None, problems_of_video(piece.video, piece.samples)


def tables(piece: Piece) -> Result:
    """The tables of the objects whose masks are right."""
    made: list[TargetTable] = []
    problems: list[Problem] = []
    for target in piece.targets.values():
        wrong = broken_masks(piece.video, target)
        problems += [Problem(piece.video.uid, text) for text in wrong]
        if not wrong:
            made.append(target_table(piece.video.uid, target))
    return made, problems


def in_tasks(
    cfg: Config,
    placement: Placement,
    work: Callable[[Piece], Result],
    waiting: Sequence[Piece],
) -> Iterator[tuple[Piece, Result]]:
    """`work` on every piece in Ray tasks, `prepare.workers` at a time; results as they arrive."""
    task = ray.remote(work).options(
        num_cpus=1,
        max_retries=MAX_ATTEMPTS - 1,
        scheduling_strategy="SPREAD",
        runtime_env=placement.runtime_env,
    )
    left = deque(waiting)
    running = dict[Any, Piece]()
    while left or running:
        while left and len(running) < cfg.prepare.workers:
            piece = left.popleft()
            running[task.remote(piece)] = piece
        [ref], _ = ray.wait(list(running), num_returns=1)
        piece = running.pop(ref)
        try:
            yield piece, ray.get(ref)
        except ray.exceptions.WorkerCrashedError:
            yield piece, _died(piece)


class JudgeActor:
    """Holds one segmenter, and compares what it makes of true boxes with the true masks."""

    def __init__(self, cfg: Config, device: str) -> None:
        self.segmenter = load_segmenter(cfg, device)

    def ready(self) -> None:
        """Returns once the weights are there."""

    def judge(self, piece: Piece) -> Result:
        """`Judged`: the mean IoU over every object of the video and every frame in which it is visible.

        The segmenter sees one frame and one box at a time, as an image: what is judged is the label, not the tracker.
        """
        texts = [
            text for target in piece.targets.values() for text in broken_masks(piece.video, target)
        ]
        if wrong := [Problem(piece.video.uid, text) for text in texts]:
            return None, wrong
        ious: list[float] = []
        try:
            for start in range(0, piece.video.num_frames, FRAMES):
                ious += self._ious(piece, range(start, min(start + FRAMES, piece.video.num_frames)))
        except ValueError as error:  # frames that cannot be read
            return None, [Problem(piece.video.uid, str(error))]
        return Judged(piece.video.uid, len(ious), sum(ious) / len(ious) if ious else None), []

    def _ious(self, piece: Piece, frames: range) -> list[float]:
        labels = [
            (f, rle)
            for t in piece.targets.values()
            for f in frames
            if (rle := _visible(t.masks_F[f]))
        ]
        if not labels:
            return []
        needed = sorted({frame for frame, _ in labels})
        images = dict(zip(needed, read_frames(piece.video, needed), strict=True))
        prompts = [MaskPrompt(frame, box(rle)) for frame, rle in labels]
        masks = self.segmenter.image_masks([images[frame] for frame, _ in labels], prompts)
        return [iou(mask_HW, decode(rle)) for mask_HW, (_, rle) in zip(masks, labels, strict=True)]


def in_judges(
    cfg: Config, placement: Placement, waiting: Sequence[Piece]
) -> Iterator[tuple[Piece, Result]]:
    """The filter's judgement of every piece by `segmenter.workers` actors; results as they arrive.

    Raises RuntimeError if an actor cannot start (it says why); the death of one costs its video one more attempt.
    """
    left = deque((piece, 1) for piece in waiting)
    actors = [_judge(cfg, placement) for _ in range(cfg.segmenter.workers)]
    running: dict[Any, tuple[Piece, int, int]] = {}
    try:
        _await(actors)
        free = deque(range(len(actors)))
        while left or running:
            while left and free:
                (piece, attempt) = left.popleft()
                number = free.popleft()
                running[actors[number].judge.remote(piece)] = (piece, attempt, number)
            [ref], _ = ray.wait(list(running), num_returns=1)
            piece, attempt, number = running.pop(ref)
            free.append(number)
            try:
                yield piece, ray.get(ref)
            except ray.exceptions.RayActorError:
                actors[number] = _judge(cfg, placement)
                _await([actors[number]])
                if attempt < MAX_ATTEMPTS:
                    left.appendleft((piece, attempt + 1))
                else:
                    yield piece, _died(piece)
    finally:
        for actor in actors:
            ray.kill(actor)


def _judge(cfg: Config, placement: Placement) -> Any:
    options = placement.options("judge")
    return ray.remote(JudgeActor).options(**options).remote(cfg, placement.device)


def _await(actors: Sequence[Any]) -> None:
    try:
        ray.get([actor.ready.remote() for actor in actors])
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(f"the segmenter of the label filter does not start: {error}") from error


def _visible(rle: Rle | None) -> Rle | None:
    return rle if rle is not None and box(rle)[2] > 0 else None


def _died(piece: Piece) -> Result:
    text = f"{piece.video.path}: its process died {MAX_ATTEMPTS} times (a file that crashes its decoder, or no memory)"
    return None, [Problem(piece.video.uid, text)]
