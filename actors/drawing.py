"""Masks that the policy draws itself: what a rank needs to draw them, and what becomes of them.

On the driver `Asked` lists the masks that episodes ask for, each with the name of its frame; a rank takes those of its
rows and reads the frames itself, from the node's store, so no frame travels. Nothing here knows a process, how an
episode was played, or what a mask is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from configs.schema import MaskConfig
from core import batch
from core.batch import GroupBatch
from core.drawing.requests import (
    DrawnMask,
    DrawnPrompt,
    DrawRequest,
    draw_requests,
    requests_of_row,
    with_loss_weights,
)
from core.masks import union_of_targets
from core.types import Episode, Group, MaskPrompt, MediaTable, Rle, Sample, SegPrompt, Video
from data.frames.reading import read_frames

Drawn = tuple[
    tuple[DrawnMask | None, ...], ...
]  # of each episode of a group, for each of its `segs`; None: not drawn
Found = dict[tuple[int, SegPrompt], DrawnMask]  # by the number of the episode in the batch

REWARDED = (
    "keyframe",
    "video",
)  # roles of masks that training looks at; "final" is there to be tracked


@dataclass(frozen=True)
class Asked:
    """Masks of a batch, and where their frames are."""

    masks: tuple[DrawRequest, ...]
    frames: Mapping[str, tuple[Video, int]]  # by the name that a mask knows its frame by

    def of_row(self, row: GroupBatch) -> tuple[list[DrawRequest], MediaTable]:
        """A row's masks, and the pixels of their frames at full size."""
        masks = requests_of_row(self.masks, row)
        wanted: dict[Video, dict[str, int]] = {}
        for name in dict.fromkeys(mask.digest for mask in masks):
            video, frame = self.frames[name]
            wanted.setdefault(video, {})[name] = frame
        pixels: MediaTable = {}
        for video, numbers in wanted.items():
            pixels |= zip(numbers, read_frames(video, list(numbers.values())), strict=True)
        return masks, pixels

    def share(self, rows: Sequence[GroupBatch]) -> Asked:
        """What these rows need of it."""
        masks = {id(mask): mask for row in rows for mask in requests_of_row(self.masks, row)}
        names = {mask.digest for mask in masks.values()}
        return Asked(tuple(masks.values()), {name: self.frames[name] for name in names})


def asked(
    videos: Sequence[Video], episodes: Sequence[Sequence[Episode]], roles: Iterable[str] = ()
) -> Asked:
    """All masks that the episodes of some groups ask for; with `roles` only those of these roles."""
    masks: list[DrawRequest] = []
    frames: dict[str, tuple[Video, int]] = {}
    wanted = set(roles)
    first = 0
    for video, group in zip(videos, episodes, strict=True):
        numbers = {seg.frame for episode in group for seg in episode.answer.segs}
        names = {frame: f"{video.path}/{video.frame_names[frame]}" for frame in sorted(numbers)}
        frames |= {name: (video, frame) for frame, name in names.items()}
        masks += [
            m for m in draw_requests(group, first, names) if not wanted or m.prompt.role in wanted
        ]
        first += len(group)
    return Asked(tuple(masks), frames)


def by_episode(found: Found, episodes: Sequence[Sequence[Episode]]) -> list[Drawn]:
    """What was drawn, in the order in which the episodes of each group ask for it."""
    drawn = []
    number = 0
    for group in episodes:
        drawn.append(
            tuple(
                tuple(found.get((number + e, seg)) for seg in x.answer.segs)
                for e, x in enumerate(group)
            )
        )
        number += len(group)
    return drawn


def to_learn(
    samples: Sequence[Sample],
    episodes: Sequence[Sequence[Episode]],
    drawn: Sequence[Drawn] | None,
    cfg: MaskConfig,
) -> Asked | None:
    """What the learner is told of masks: of keyframes the one that was drawn, to calibrate the token's log-prob with,
    and of all frames the truth (SPEC B.5). Demonstrations have none drawn. None where neither is learned from.

    Weights are counted over the whole batch, so groups without an advantage must be learned from as well.
    """
    calibrated = drawn is not None and cfg.calibration > 0
    if not calibrated and not cfg.loss:
        return None
    found = asked([s.video for s in samples], episodes, REWARDED)
    masks = list(found.masks)
    if calibrated:
        assert drawn is not None
        made = _numbered(drawn, episodes)
        masks = [
            replace(m, sampled=made[m.episode, m.prompt].sampled)
            if m.prompt.role == "keyframe"
            else m
            for m in masks
        ]
    if cfg.loss:
        truths = [
            truth
            for s, group in zip(samples, episodes, strict=True)
            for truth in [_truth(s)] * len(group)
        ]
        masks = with_loss_weights(
            [replace(m, truth=truths[m.episode][m.prompt.frame]) for m in masks], cfg.loss
        )
    else:
        masks = [m for m in masks if m.sampled is not None]
    return Asked(tuple(masks), found.frames)


def prompts_of(
    episode: Episode, drawn: Sequence[DrawnMask | None]
) -> tuple[MaskPrompt | DrawnPrompt, ...]:
    """What a segmenter follows through the video: the answer's prompts, and masks that were drawn to be tracked."""
    return (
        *episode.answer.prompts,
        *(made.prompt for made in drawn if made is not None and made.prompt is not None),
    )


def _numbered(drawn: Sequence[Drawn], episodes: Sequence[Sequence[Episode]]) -> Found:
    flat = [
        pair
        for group, made in zip(episodes, drawn, strict=True)
        for pair in zip(group, made, strict=True)
    ]
    return {
        (number, seg): one
        for number, (episode, masks) in enumerate(flat)
        for seg, one in zip(episode.answer.segs, masks, strict=True)
        if one is not None
    }


def _truth(sample: Sample) -> Sequence[Rle | None]:
    """Of each frame: the union of the targets, None where it shows none."""
    return union_of_targets(sample) if sample.targets else [None] * sample.video.num_frames


def draw_rows(
    policy: Any, pixels: Any, rows: Sequence[GroupBatch], shown: MediaTable, wanted: Asked
) -> Found:
    """On a rank: the masks of its rows. Those of a dummy row are drawn once more, and are the same."""
    found: Found = {}
    for row in rows:
        masks, frames = wanted.of_row(row)
        made = policy.draw(row, *pixels([shown[digest] for digest in row.images]), masks, frames)
        found |= {(mask.episode, mask.prompt): one for mask, one in zip(masks, made, strict=True)}
    return found


def forest_of(groups: Sequence[Sequence[Episode]]) -> list[batch.Tree]:
    """Trees of episodes that are only to be read, not learned from."""
    forest: list[batch.Tree] = []
    first = 0
    for index, episodes in enumerate(groups):
        nothing = [(0.0,) * len(e.turns) for e in episodes]
        group = Group(episodes[0].sample_uid, tuple(episodes))
        forest += batch.trees(group, index, nothing, [1.0] * len(episodes), first)
        first += len(episodes)
    return forest
