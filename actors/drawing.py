"""Masks drawn by the policy itself: requests for a rank, and uses of the results.

On the driver a `DrawBatch` lists the draw requests of some episodes, each with the name of its
frame. A rank takes the requests of its own rows and reads their frames from the node's store, so no
frame travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from configs.schema import MaskConfig
from core import batch
from core.batch import GroupBatch, Tree
from core.drawing.requests import (
    DrawnMask,
    DrawnPrompt,
    DrawRequest,
    draw_requests,
    requests_of_row,
)
from core.masks import union_of_targets
from core.pulse import tick
from core.types import (
    Episode,
    Group,
    MaskPrompt,
    MediaSource,
    MediaTable,
    Rle,
    Sample,
    SegPrompt,
    Video,
)
from data.frames.reading import read_frames
from data.frames.shown import images_of_row

if TYPE_CHECKING:
    from models.policy.pixels import Pixels
    from models.policy.policy import Policy
    from models.policy.seg_policy import SegPolicy

# Drawn masks of a group: for each episode, for each of its answer's `segs`; None: not drawn.
Drawn = tuple[tuple[DrawnMask | None, ...], ...]

# Drawn masks by the number of the episode in the batch and its prompt.
DrawnMasks = dict[tuple[int, SegPrompt], DrawnMask]

# Roles of masks that training looks at. A mask of role "final" is only drawn to be tracked.
REWARDED = ("keyframe", "video")


@dataclass(frozen=True)
class DrawBatch:
    """Draw requests of a batch, and the places of their frames.

    Attributes:
        frames: video and number of each frame, by the name (`digest`) in its requests.
    """

    requests: tuple[DrawRequest, ...]
    frames: Mapping[str, tuple[Video, int]]

    def of_row(self, row: GroupBatch) -> tuple[list[DrawRequest], MediaTable]:
        """Return a row's requests, and the pixels of their frames at full size."""
        requests = requests_of_row(self.requests, row)
        names_by_video: dict[Video, dict[str, int]] = {}
        for name in dict.fromkeys(request.digest for request in requests):
            video, frame = self.frames[name]
            names_by_video.setdefault(video, {})[name] = frame

        # All frames of a video are read in one go.
        pixels: MediaTable = {}
        for video, numbers in names_by_video.items():
            frames = read_frames(video, list(numbers.values()))
            pixels.update(zip(numbers, frames, strict=True))
        return requests, pixels

    def share(self, rows: Sequence[Sequence[Tree]]) -> DrawBatch:
        """Return the requests of the trees of these rows, with the places of their frames."""
        episodes: set[int] = set()
        for row in rows:
            for tree in row:
                episodes.update(branch.episode for branch in tree.branches)
        own = [request for request in self.requests if request.episode in episodes]
        frames = {request.digest: self.frames[request.digest] for request in own}
        return DrawBatch(tuple(own), frames)


def draw_batch(
    videos: Sequence[Video], episodes: Sequence[Sequence[Episode]], roles: Iterable[str] = ()
) -> DrawBatch:
    """Return all draw requests of the episodes of some groups.

    Args:
        videos: the video of each group.
        roles: keep requests of these roles only; empty keeps all.
    """
    kept_roles = set(roles)
    requests: list[DrawRequest] = []
    frames: dict[str, tuple[Video, int]] = {}
    first = 0
    for video, group in zip(videos, episodes, strict=True):
        numbers: set[int] = set()
        for episode in group:
            numbers.update(seg.frame for seg in episode.answer.segs)
        names: dict[int, str] = {}
        for frame in sorted(numbers):
            names[frame] = f"{video.path}/{video.frame_names[frame]}"
            frames[names[frame]] = (video, frame)

        # Requests know their episode by its number in the whole batch.
        for request in draw_requests(group, first, names):
            if not kept_roles or request.prompt.role in kept_roles:
                requests.append(request)
        first += len(group)
    return DrawBatch(tuple(requests), frames)


def masks_by_episode(masks: DrawnMasks, episodes: Sequence[Sequence[Episode]]) -> list[Drawn]:
    """Return drawn masks in the order of the requests of each group's episodes."""
    drawn: list[Drawn] = []
    number = 0
    for group in episodes:
        of_group: list[tuple[DrawnMask | None, ...]] = []
        for episode in group:
            of_group.append(tuple(masks.get((number, seg)) for seg in episode.answer.segs))
            number += 1
        drawn.append(tuple(of_group))
    return drawn


def mask_targets(
    samples: Sequence[Sample],
    episodes: Sequence[Sequence[Episode]],
    drawn: Sequence[Drawn] | None,
    cfg: MaskConfig,
) -> DrawBatch | None:
    """Return the mask targets of the learner (docs/spec/videoseg_o3.md).

    A keyframe gets the mask sampled there; it calibrates the log-prob of the keyframe's token.
    Every rewarded frame gets the true mask, for the auxiliary loss, with the weight of its whole
    role: the learner divides it by the role's masks in the whole batch (`with_loss_weights`).

    Args:
        drawn: masks of each group; None for demonstrations.

    Returns:
        None if the configuration learns from neither.
    """
    is_calibrated = drawn is not None and cfg.calibration > 0
    if not is_calibrated and not cfg.loss:
        return None

    found = draw_batch([sample.video for sample in samples], episodes, REWARDED)
    requests = list(found.requests)
    if is_calibrated:
        assert drawn is not None
        requests = _with_sampled_masks(requests, episodes, drawn)
    if cfg.loss:
        requests = _with_truths(requests, samples, episodes, cfg.loss)
    else:
        requests = [request for request in requests if request.sampled is not None]
    return DrawBatch(tuple(requests), found.frames)


def _with_sampled_masks(
    requests: Sequence[DrawRequest],
    episodes: Sequence[Sequence[Episode]],
    drawn: Sequence[Drawn],
) -> list[DrawRequest]:
    """Give requests on keyframes the mask sampled there."""
    masks: DrawnMasks = {}
    number = 0
    for group, of_group in zip(episodes, drawn, strict=True):
        for episode, of_episode in zip(group, of_group, strict=True):
            for seg, mask in zip(episode.answer.segs, of_episode, strict=True):
                if mask is not None:
                    masks[number, seg] = mask
            number += 1

    found: list[DrawRequest] = []
    for request in requests:
        if request.prompt.role == "keyframe":
            mask = masks[request.episode, request.prompt]
            request = replace(request, sampled=mask.sampled)
        found.append(request)
    return found


def _with_truths(
    requests: Sequence[DrawRequest],
    samples: Sequence[Sample],
    episodes: Sequence[Sequence[Episode]],
    weight: float,
) -> list[DrawRequest]:
    """Give every request the true mask of its frame, and a weight."""
    # The sample and the union of its targets of each episode of the batch.
    samples_of: list[Sample] = []
    unions: list[Sequence[Rle | None]] = []
    for sample, group in zip(samples, episodes, strict=True):
        samples_of += [sample] * len(group)
        unions += [_truth(sample)] * len(group)

    found: list[DrawRequest] = []
    for request in requests:
        prompt = request.prompt
        truth_F = unions[request.episode]
        if prompt.target is not None:
            truth_F = samples_of[request.episode].targets[prompt.target].masks_F
        truth = truth_F[prompt.frame]
        found.append(replace(request, truth=truth, weight=weight))
    return found


def _truth(sample: Sample) -> Sequence[Rle | None]:
    """Return the union of the targets on each frame, None for a frame without a target."""
    if not sample.targets:
        return [None] * sample.video.num_frames
    return union_of_targets(sample)


def tracking_prompts(
    episode: Episode, drawn: Sequence[DrawnMask | None]
) -> tuple[MaskPrompt | DrawnPrompt, ...]:
    """Return the prompts to track for an episode: its mask prompts and the masks drawn for it."""
    prompts: list[MaskPrompt | DrawnPrompt] = list(episode.answer.prompts)
    for mask in drawn:
        if mask is not None and mask.prompt is not None:
            prompts.append(mask.prompt)
    return tuple(prompts)


def draw_rows(
    policy: Policy | SegPolicy,
    pixels: Pixels,
    rows: Sequence[Sequence[Tree]],
    sources: Mapping[int, MediaSource],
    requests: DrawBatch,
) -> DrawnMasks:
    """Draw the masks of some rows, given as trees, on a rank.

    The masks of a dummy row are drawn a second time, with the same result.

    Args:
        sources: where the images of the groups come from, by the number of the group.
    """
    assert hasattr(policy, "draw"), "only a policy with a mask head draws"
    masks: DrawnMasks = {}
    for forest in rows:
        row = batch.build_row(forest, policy.layout)
        shown = images_of_row(forest, sources)
        of_row, frames = requests.of_row(row)
        patches, grid_U3 = pixels([shown[digest] for digest in row.images])
        drawn = policy.draw(row, patches, grid_U3, of_row, frames)
        tick()
        for request, mask in zip(of_row, drawn, strict=True):
            masks[request.episode, request.prompt] = mask
    return masks


def forest_to_draw(groups: Sequence[Sequence[Episode]]) -> list[batch.Tree]:
    """Return trees of episodes to read and not to learn from."""
    forest: list[batch.Tree] = []
    first = 0
    for index, episodes in enumerate(groups):
        credit = [(0.0,) * len(episode.turns) for episode in episodes]
        group = Group(episodes[0].sample_uid, tuple(episodes))
        forest += batch.trees(group, index, credit, [1.0] * len(episodes), first)
        first += len(episodes)
    return forest
