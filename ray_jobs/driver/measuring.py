"""Played groups are segmented and measured while others still play, a few videos at a time.

The groups of some short videos, or of a long one, are a piece: an actor segments their frames once,
and tracks all their prompts in batches that depend on nothing but the samples. A piece starts as
soon as its last group has been played.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from actors.drawing import Drawn, tracking_prompts
from actors.pool import Flight
from actors.reward import RewardPool, Scoring
from actors.rollout import Played
from actors.segmenter import TOGETHER, Tasks, Tracked, Truth, VideoTask, decoded_bytes, fitting
from core.types import Reward, Sample, Video
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Result
from ray_jobs.record.overlay import keyframes_of

# Groups of one video: the video, and their number among its own.
PartName = tuple[Video, int]


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
Tracking = Flight[Tasks, list[list[Tracked]]]


class Pieces:
    """Groups in the order of their arrival become pieces, in the order of their completion."""

    def __init__(self, samples: Sequence[Sample], most: int, repeats: int = 1) -> None:
        """Cut the samples into pieces.

        Args:
            most: Most groups of a piece.
            repeats: Episodes of each sample.
        """
        parts = _parts(samples, most)
        counts = Counter(parts)
        names = list(counts)
        sizes = [(counts[name] * repeats, decoded_bytes(name[0])) for name in names]
        batches = fitting(sizes, min(TOGETHER, most * repeats))
        piece_of: dict[PartName, int] = {}
        for number, batch in enumerate(batches):
            for place in batch:
                piece_of[names[place]] = number
        # Piece of each sample, samples of each piece, and the groups of those that have begun.
        self._pieces = [piece_of[part] for part in parts]
        self._sizes = Counter(self._pieces)
        self._arrived: dict[int, list[ScoredGroup]] = {}

    def take(self, groups: Iterable[ScoredGroup]) -> list[Piece]:
        """Take groups; return the pieces that are complete now."""
        complete = []
        for group in groups:
            number = self._pieces[group.played.index]
            arrived = self._arrived.setdefault(number, [])
            arrived.append(group)
            if len(arrived) == self._sizes[number]:
                complete.append(_in_order(self._arrived.pop(number)))
        return complete

    def rest(self) -> list[Piece]:
        """Return the pieces that will not become complete."""
        return [_in_order(groups) for groups in self._arrived.values()]


def _parts(samples: Sequence[Sample], most: int) -> list[PartName]:
    """Return the part of each sample: at most so many of one video."""
    parts = []
    of_video: Counter[Video] = Counter()
    for sample in samples:
        parts.append((sample.video, of_video[sample.video] // most))
        of_video[sample.video] += 1
    return parts


def _in_order(groups: Iterable[ScoredGroup]) -> Piece:
    """Return groups video by video in the order of the samples: arrival differs from run to run."""
    in_order = sorted(groups, key=lambda group: group.played.index)
    return list(itertools.chain.from_iterable(_by_video(in_order).values()))


def _by_video(piece: Piece) -> dict[Video, list[ScoredGroup]]:
    """Return the groups of each video, in order."""
    groups: dict[Video, list[ScoredGroup]] = {}
    for group in piece:
        groups.setdefault(group.played.sample.video, []).append(group)
    return groups


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
            tasks = [_task(video, groups) for video, groups in _by_video(piece).items()]
            self._begun.append((piece, self._segmenters.hand_out(tuple(tasks))))
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
        tracked = itertools.chain.from_iterable(self._segmenters.wait_for(tracking))
        return _results(piece, tracked, self._rewards)


def _task(video: Video, groups: Iterable[ScoredGroup]) -> VideoTask:
    """Return the task of the groups of one video."""
    prompts = []
    truths: list[Truth | None] = []
    for group in groups:
        sample = group.played.sample
        for number, episode in enumerate(group.played.episodes):
            drawn = () if group.drawn is None else group.drawn[number]
            prompts.append(tracking_prompts(episode, drawn))
            truth = None
            if not hidden(sample):
                truth = Truth(sample, frozenset(keyframes_of(episode)))
            truths.append(truth)
    return VideoTask(video, tuple(prompts), tuple(truths))


def _results(piece: Piece, tracked: Iterator[Tracked], pool: RewardPool) -> list[Result]:
    """Return the results of a piece, in its order."""
    results = []
    for group in piece:
        episodes = group.played.episodes
        rewards: Sequence[Reward | None] = [None] * len(episodes)
        if group.scoring is not None:
            rewards = pool.collect(group.scoring)
        for episode, reward in zip(episodes, rewards, strict=True):
            found = next(tracked)
            sample = group.played.sample
            results.append(
                Result(sample, episode, found.masks_F, reward, found.scores, found.objects_OF)
            )
    return results


def hidden(sample: Sample) -> bool:
    """Return True if the truth is not public. Such a sample has no targets and is not measured."""
    return sample.notes.hidden
