"""Played groups are segmented and measured while others still play, video by video.

The groups of one video are a piece: an actor segments its frames once, and tracks all its prompts
in batches that depend on nothing but the samples. A piece starts as soon as its last group has been
played.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from actors.drawing import Drawn, tracking_prompts
from actors.pool import Flight
from actors.reward import RewardPool, Scoring
from actors.rollout import Played
from actors.segmenter import Tracked, Truth, VideoTask
from core.types import Reward, Sample, Video
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Result
from ray_jobs.record.overlay import keyframes_of

# A piece: its video, and its number among those of this video.
PieceName = tuple[Video, int]


@dataclass(frozen=True)
class ScoredGroup:
    """A played group on its way to its rewards.

    Attributes:
        played: The group.
        drawn: The masks drawn by the policy; None if it points.
        scoring: None if the truth is not public.
    """

    played: Played
    drawn: Drawn | None
    scoring: Scoring | None


Piece = Sequence[ScoredGroup]
# A piece in the hands of a segmenter.
Tracking = Flight[VideoTask, list[Tracked]]


class Pieces:
    """Groups in the order of their arrival become pieces, in the order of their completion."""

    def __init__(self, samples: Sequence[Sample], most: int) -> None:
        """Cut the samples into pieces of `most` groups of one video."""
        of_video: Counter[Video] = Counter()
        self._names: list[PieceName] = []
        for sample in samples:
            self._names.append((sample.video, of_video[sample.video] // most))
            of_video[sample.video] += 1
        self._sizes = Counter(self._names)
        self._arrived: dict[PieceName, list[ScoredGroup]] = {}

    def take(self, groups: Iterable[ScoredGroup]) -> list[Piece]:
        """Take groups; return the pieces that are complete now."""
        complete = []
        for group in groups:
            name = self._names[group.played.index]
            arrived = self._arrived.setdefault(name, [])
            arrived.append(group)
            if len(arrived) == self._sizes[name]:
                complete.append(_in_order(self._arrived.pop(name)))
        return complete

    def rest(self) -> list[Piece]:
        """Return the pieces that will not become complete."""
        return [_in_order(groups) for groups in self._arrived.values()]


def _in_order(groups: Iterable[ScoredGroup]) -> Piece:
    """Return groups in the order of the samples: arrival differs from run to run."""
    return sorted(groups, key=lambda group: group.played.index)


class Measuring:
    """Pieces in the hands of the segmenters; results come in the order of the pieces."""

    def __init__(self, pools: Pools, most: int) -> None:
        """Start the segmenters.

        Args:
            most: Groups that may be under way before `results` waits.
        """
        self._segmenters = pools.segmenters
        self._rewards = pools.rewards
        self._most = most
        self._under_way = 0
        self._begun: deque[tuple[Piece, Tracking]] = deque()

    def put(self, pieces: Iterable[Piece]) -> None:
        """Hand pieces to the segmenters; return at once."""
        for piece in pieces:
            self._begun.append((piece, self._segmenters.hand_out(_task(piece))))
            self._under_way += len(piece)

    def results(self) -> Iterator[list[Result]]:
        """Yield what is finished; wait while too many groups are under way."""
        while self._begun:
            _, oldest = self._begun[0]
            if self._under_way <= self._most and not self._segmenters.is_done(oldest):
                return
            yield self._next()

    def rest(self) -> Iterator[list[Result]]:
        """Wait for all pieces; yield their results."""
        while self._begun:
            yield self._next()

    def _next(self) -> list[Result]:
        piece, tracking = self._begun.popleft()
        self._under_way -= len(piece)
        return _results(piece, self._segmenters.wait_for(tracking), self._rewards)


def _task(piece: Piece) -> VideoTask:
    """Return the task of a piece."""
    prompts = []
    truths: list[Truth | None] = []
    for group in piece:
        sample = group.played.sample
        for number, episode in enumerate(group.played.episodes):
            drawn = () if group.drawn is None else group.drawn[number]
            prompts.append(tracking_prompts(episode, drawn))
            truth = None
            if not hidden(sample):
                truth = Truth(sample, frozenset(keyframes_of(episode)))
            truths.append(truth)
    video = piece[0].played.sample.video
    return VideoTask(video, tuple(prompts), tuple(truths))


def _results(piece: Piece, tracked: Sequence[Tracked], pool: RewardPool) -> list[Result]:
    """Return the results of a piece, in its order."""
    left = iter(tracked)
    results = []
    for group in piece:
        episodes = group.played.episodes
        rewards: Sequence[Reward | None] = [None] * len(episodes)
        if group.scoring is not None:
            rewards = pool.collect(group.scoring)
        for episode, reward in zip(episodes, rewards, strict=True):
            found = next(left)
            sample = group.played.sample
            results.append(
                Result(sample, episode, found.masks_F, reward, found.scores, found.objects_OF)
            )
    return results


def hidden(sample: Sample) -> bool:
    """Return True if the truth is not public. Such a sample has no targets and is not measured."""
    return sample.notes.hidden
