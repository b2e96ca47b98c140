"""Videos with masks on some frames only, for jobs that read a truth on every frame.

A frame that is not labelled is unknown, not empty: no reward may read it. So training plays on the
labelled frames alone, as the data sets do that label every few frames (YouTube-VOS, SA-V).
Evaluation plays on the whole video and counts the labelled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.types import Rle, Sample, Video
from data.masks.lazy import LazyMasks


@dataclass(frozen=True, eq=False)
class ChosenMasks(LazyMasks):
    """The masks of some frames of a video.

    Attributes:
        whole: The masks of all frames.
        frames: The numbers of the frames.
    """

    whole: Sequence[Rle | None]
    frames: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def all(self) -> tuple[Rle | None, ...]:
        masks_F = tuple(self.whole)
        return tuple(masks_F[frame] for frame in self.frames)


def on_labelled_frames(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples, each on the frames whose truth is known."""
    return [_on_labelled_frames(sample) for sample in samples]


def _on_labelled_frames(sample: Sample) -> Sample:
    notes = sample.notes
    if not notes.others_unknown or notes.frames_listed is None:
        return sample
    listed = set(notes.frames_listed)
    names = sample.video.frame_names
    frames = tuple(frame for frame, name in enumerate(names) if name in listed)
    targets = []
    for target in sample.targets:
        masks_F = ChosenMasks(target.masks_F, frames)
        targets.append(replace(target, masks_F=masks_F))
    known = replace(notes, frames_listed=None, others_unknown=False)
    video = _video_of(sample.video, frames)
    return replace(sample, video=video, targets=tuple(targets), notes=known)


def _video_of(video: Video, frames: tuple[int, ...]) -> Video:
    names = tuple(video.frame_names[frame] for frame in frames)
    if Path(video.path).is_dir():
        return replace(video, frame_names=names)
    numbers = tuple(video.number(frame) for frame in frames)
    return replace(video, frame_names=names, stride=1, chosen=numbers)
