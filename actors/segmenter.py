"""Segmenter actors and their pool: from prompts to masks of whole videos, and to their measures.

An actor reads the frames itself, so only prompts and encoded masks travel. Where the ground truth
is asked after, J and F are taken from the masks before they are encoded. All episodes on a video
go to one actor together: its frames are decoded and encoded once, and equal prompts are tracked
once, all in one batch. Short videos share a batch. A long video is read in pieces and its masks are
encoded as they come, so an array of all its frames never exists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from core.evaluation.protocols import Meter, measure
from core.masks import encode_frames, union
from core.pulse import tick
from core.segmenters import KINDS
from core.types import MaskPrompt, Rle, Sample, Video

# Only the actors need torch. A driver that hands out work starts faster without it.
if TYPE_CHECKING:
    from models.policy.mask_head import MaskHead
    from models.segmenters.base import Frames, MaskPiece, Prompt, Segmenter

T = TypeVar("T")
Prompts = tuple[MaskPrompt | DrawnPrompt, ...]

# Masks of one episode, a union over its prompts for each frame; None where there is none.
VideoMasks = tuple[Rle | None, ...]

# Sees a prompt, some frames, and its masks there, bool (n, H, W).
Made = Callable[["Prompt", Sequence[int], np.ndarray], None]

# Videos up to this size together are decoded at once: 50 frames of 480 x 854.
WHOLE_BYTES = 64 << 20
# Prompts of such videos that are tracked in one batch.
TOGETHER = 16
# The same of a longer video, where every prompt holds frames that were read ahead at two places.
TOGETHER_LONG = 4


@dataclass(frozen=True)
class Truth:
    """What the masks of an episode are measured against.

    Attributes:
        sample: with its targets, read from the data set where they are needed.
        keyframes: frames on which the episode located its objects.
    """

    sample: Sample
    keyframes: frozenset[int]


@dataclass(frozen=True)
class VideoTask:
    """Episodes on one video.

    Attributes:
        episodes: the prompts of each of them.
        truths: what each of them is measured against; None: not measured.
    """

    video: Video
    episodes: tuple[Prompts, ...]
    truths: tuple[Truth | None, ...]


@dataclass(frozen=True)
class Tracked:
    """An episode's masks on all frames of its video.

    Attributes:
        masks_F: the masks.
        scores: figures of `core.evaluation.protocols.measure`; empty without a truth.
        objects_OF: the masks of each of several prompts; empty with a truth.
    """

    masks_F: VideoMasks
    scores: Mapping[str, float]
    objects_OF: tuple[VideoMasks, ...] = ()


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


def fitting(sizes: Sequence[tuple[int, int]], together: int) -> Iterator[range]:
    """Cut a sequence into runs whose prompts are tracked in one batch.

    Args:
        sizes: prompts of each element, and bytes of its decoded video. One that is too large is a
            run of its own.
        together: most prompts of a run.
    """
    start = 0
    prompts = 0
    size = 0
    for place, (own_prompts, own_size) in enumerate(sizes):
        prompts += own_prompts
        size += own_size
        if place > start and (prompts > together or size > WHOLE_BYTES):
            yield range(start, place)
            start = place
            prompts = own_prompts
            size = own_size
    if sizes:
        yield range(start, len(sizes))


def decoded_bytes(video: Video) -> int:
    """Return the size of all frames of a video in memory."""
    return 3 * video.num_frames * video.height * video.width


class Following:
    """Episodes on one video whose prompts are tracked through it. Equal prompts are tracked once.

    Attributes:
        prompts: the distinct ones.
    """

    def __init__(self, video: Video, episodes: Sequence[Prompts], made: Made | None = None) -> None:
        """Begin without masks.

        Args:
            episodes: the prompts of each episode.
            made: sees the masks of each prompt as they are made.
        """
        self.video = video
        self.prompts = _distinct(episodes)
        self._episodes = episodes
        self._made = made
        self._tracks: dict[Prompt, list[Rle | None]] = {
            prompt: [None] * video.num_frames for prompt in self.prompts
        }

    def add(self, piece: MaskPiece, batch: Sequence[Prompt]) -> None:
        """Take masks, and encode them at once. They come in any order.

        Args:
            batch: the prompts by their indices in the piece.
        """
        if self._made is not None:
            _show(piece, batch, self._made)
        rles = encode_frames(piece.masks_NHW)
        for place, rle, mask_HW in zip(piece.places, rles, piece.masks_NHW, strict=True):
            index, frame = place
            if mask_HW.any():
                self._tracks[batch[index]][frame] = rle

    def masks(self) -> list[VideoMasks]:
        """Return the masks of each episode on every frame."""
        found: list[VideoMasks] = []
        for own_prompts in self._episodes:
            of_prompts = [self._tracks[prompt] for prompt in own_prompts]
            found.append(_unions(of_prompts, self.video.num_frames))
        return found


@dataclass(frozen=True)
class _Portion:
    """Prompts on one video that are tracked in one batch."""

    following: Following
    prompts: Sequence[Prompt]


def follow(segmenter: Segmenter, followed: Sequence[Following]) -> None:
    """Track the prompts of all episodes through their videos; those of short videos together."""
    portions: list[_Portion] = []
    sizes: list[tuple[int, int]] = []
    for following in followed:
        size = decoded_bytes(following.video)
        together = TOGETHER if size <= WHOLE_BYTES else TOGETHER_LONG
        for start in range(0, len(following.prompts), together):
            prompts = following.prompts[start : start + together]
            portions.append(_Portion(following, prompts))
            sizes.append((len(prompts), size))

    for run in fitting(sizes, TOGETHER):
        batch = portions[run.start : run.stop]
        clips = [(_opened(portion.following.video), portion.prompts) for portion in batch]
        for number, piece in segmenter.track_clips(clips):
            tick()
            batch[number].following.add(piece, batch[number].prompts)


def masks_on_all_frames(
    segmenter: Segmenter, video: Video, episodes: Sequence[Prompts]
) -> list[VideoMasks]:
    """Track each episode's prompts through the video; return its masks on every frame."""
    following = Following(video, episodes)
    follow(segmenter, [following])
    return following.masks()


def _opened(video: Video) -> Frames:
    """Return the frames of a video. A short one is decoded at once, a long one read in pieces."""
    from data.frames.reading import Clip

    clip = Clip(video)
    return clip[:] if decoded_bytes(video) <= WHOLE_BYTES else clip


def _show(piece: MaskPiece, prompts: Sequence[Prompt], made: Made) -> None:
    """Show the masks of a piece, prompt by prompt."""
    rows: dict[int, list[int]] = {}
    for row, (index, _) in enumerate(piece.places):
        rows.setdefault(index, []).append(row)
    for index, own_rows in rows.items():
        frames = [piece.places[row][1] for row in own_rows]
        made(prompts[index], frames, piece.masks_NHW[own_rows])


class MeasuredVideo:
    """The episodes of a task, tracked and measured."""

    def __init__(self, task: VideoTask) -> None:
        self.task = task
        self._meters = Meters()
        singles: list[Prompts] = []
        for prompts, truth in zip(task.episodes, task.truths, strict=True):
            if truth is not None:
                self._meters.add(prompts, truth)
            elif len(prompts) > 1:
                singles += [(prompt,) for prompt in prompts]
        self.following = Following(task.video, [*task.episodes, *singles], self._meters.see)

    def tracked(self) -> list[Tracked]:
        """Return the result of each episode."""
        task = self.task
        masks = self.following.masks()
        left = iter(masks[len(task.episodes) :])
        found = []
        for prompts, truth, masks_F in zip(task.episodes, task.truths, masks, strict=False):
            if truth is not None:
                scores = self._meters.scores(prompts, truth, masks_F)
                found.append(Tracked(masks_F, scores))
                continue
            several = len(prompts) if len(prompts) > 1 else 0
            objects_OF = tuple(itertools.islice(left, several))
            found.append(Tracked(masks_F, {}, objects_OF))
        return found


class Meters:
    """Measures of the episodes on one video; those with one prompt before masks are encoded."""

    def __init__(self) -> None:
        # By sample and prompts: equal answers are measured once.
        self._meters: dict[tuple[str, Prompts], Meter] = {}
        self._by_prompt: dict[Prompt, list[Meter]] = {}

    def add(self, prompts: Prompts, truth: Truth) -> None:
        """Measure an episode's masks as they are made, if it has one prompt."""
        key = (truth.sample.uid, prompts)
        if len(prompts) != 1 or key in self._meters:
            return
        self._meters[key] = Meter(truth.sample)
        self._by_prompt.setdefault(prompts[0], []).append(self._meters[key])

    def see(self, prompt: Prompt, frames: Sequence[int], masks_nHW: np.ndarray) -> None:
        """Measure masks of a prompt on some frames."""
        for meter in self._by_prompt.get(prompt, ()):
            meter.add(frames, masks_nHW)

    def scores(self, prompts: Prompts, truth: Truth, masks_F: VideoMasks) -> Mapping[str, float]:
        """Return an episode's scores; `masks_F` are its encoded masks, a union of several."""
        meter = self._meters.get((truth.sample.uid, prompts))
        if meter is None:
            return measure(truth.sample, masks_F, truth.keyframes).scores
        return meter.scored(truth.keyframes).scores


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

    def segment(self, tasks: Sequence[VideoTask]) -> list[list[Tracked]]:
        """Track the episodes of some videos, and measure those that have a truth."""
        videos = [MeasuredVideo(task) for task in tasks]
        follow(self.segmenter, [video.following for video in videos])
        return [video.tracked() for video in videos]


# Videos that go to one actor together.
Tasks = tuple[VideoTask, ...]


class SegmenterPool(Pool[SegmenterActor, Tasks, list[list[Tracked]]]):
    """All segmenter actors, a few short videos or a long one at a time each."""

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

    def send(self, worker: Handle[SegmenterActor], task: Tasks) -> Ref[list[list[Tracked]]]:
        return worker.call(SegmenterActor.segment, task)

    def give_up(self, task: Tasks, error: Exception) -> list[list[Tracked]]:
        settings = self.cfg.segmenter
        uids = ", ".join(repr(one.video.uid) for one in task)
        raise RuntimeError(
            f"a segmenter actor died {self.attempts} times at video {uids} "
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
        indices = _with_prompts(episodes)
        tasks: list[Tasks] = []
        for video, found in indices.items():
            prompts = tuple(episodes[index][1] for index in found)
            tasks.append((VideoTask(video, prompts, (None,) * len(found)),))
        for [task], [tracked] in self.run(tasks):
            for index, each in zip(indices[task.video], tracked, strict=True):
                masks[index] = each.masks_F
        return masks


def _with_prompts(episodes: Sequence[tuple[Video, Prompts]]) -> dict[Video, list[int]]:
    """Return the indices of the episodes with prompts, by video in the order of appearance."""
    indices: dict[Video, list[int]] = {}
    for index, (video, prompts) in enumerate(episodes):
        if prompts:
            indices.setdefault(video, []).append(index)
    return indices


def _distinct(episodes: Sequence[tuple[T, ...]]) -> list[T]:
    """Return every prompt of some episodes once, in the order of first appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(episodes)))
