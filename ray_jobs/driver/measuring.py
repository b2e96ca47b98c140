"""Played groups are segmented and measured while others still play, video by video.

The groups of one video are a piece: an actor segments its frames once, and tracks all its prompts
in batches that depend on nothing but the samples. A piece starts as soon as its last group has been
played.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType

from actors.drawing import Drawn, tracking_prompts
from actors.reward import Scoring
from actors.rollout import Played
from actors.segmenter import Tracked, Truth, VideoTask
from core.types import Reward, Sample, Video
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Result
from ray_jobs.record.overlay import keyframes_of

# Pieces in the hands of one segmenter: the next one is there when it has finished one.
IN_HAND = 2

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
    """A background thread with pieces on one side, and their results on the other."""

    def __init__(self, pools: Pools, most: int) -> None:
        """Start the thread.

        Args:
            most: Groups that may be under way before `results` waits.
        """
        # The thread uses the pool as well, so it must not be the one to start it.
        _ = pools.segmenters
        self._pools = pools
        self._most = most
        self._under_way = 0
        self._stopped = False
        self._pieces: SimpleQueue[Piece | None] = SimpleQueue()
        # The groups of a piece, and its results; None when the thread has ended.
        self._results: SimpleQueue[tuple[int, list[Result]] | None] = SimpleQueue()
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._work: Future[None] = self._executor.submit(self._measure)

    def put(self, pieces: Iterable[Piece]) -> None:
        """Segment and measure pieces when those before them are under way."""
        for piece in pieces:
            self._under_way += len(piece)
            self._pieces.put(piece)

    def results(self) -> Iterator[list[Result]]:
        """Yield what is finished; wait while too many groups are under way."""
        while self._under_way > self._most or not self._results.empty():
            yield self._next()

    def rest(self) -> Iterator[list[Result]]:
        """Wait for all pieces; yield their results."""
        self._pieces.put(None)
        while self._under_way:
            yield self._next()

    def _next(self) -> list[Result]:
        found = self._results.get()
        if found is None:
            # Its error.
            self._work.result()
        assert found is not None, "the thread ends early by an error alone"
        groups, results = found
        self._under_way -= groups
        return results

    def _measure(self) -> None:
        try:
            for piece, results in measured_pieces(self._waiting(), self._pools):
                self._results.put((len(piece), results))
        finally:
            self._results.put(None)

    def _waiting(self) -> Iterator[Piece]:
        for piece in iter(self._pieces.get, None):
            if self._stopped:
                return
            yield piece

    def __enter__(self) -> Measuring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error nothing more is begun.
        self._stopped = True
        self._pieces.put(None)
        self._executor.shutdown()


def measured_pieces(pieces: Iterable[Piece], pools: Pools) -> Iterator[tuple[Piece, list[Result]]]:
    """Segment and measure pieces; yield each with its results, in their order."""
    begun: deque[tuple[int, Piece]] = deque()
    ended: dict[int, list[Tracked]] = {}

    def tasks() -> Iterator[VideoTask]:
        start = 0
        for piece in pieces:
            task = _task(piece, start)
            begun.append((start, piece))
            start += len(task.indices)
            yield task

    for task, tracked in pools.segmenters.run(tasks(), IN_HAND):
        ended[task.indices[0]] = tracked
        while begun and begun[0][0] in ended:
            start, piece = begun.popleft()
            yield piece, _results(piece, ended.pop(start), pools)


def _task(piece: Piece, start: int) -> VideoTask:
    """Return the task of a piece; its episodes are numbered from `start`."""
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
    numbers = tuple(range(start, start + len(prompts)))
    video = piece[0].played.sample.video
    return VideoTask(video, numbers, tuple(prompts), tuple(truths))


def _results(piece: Piece, tracked: Sequence[Tracked], pools: Pools) -> list[Result]:
    """Return the results of a piece, in its order."""
    left = iter(tracked)
    results = []
    for group in piece:
        episodes = group.played.episodes
        rewards: Sequence[Reward | None] = [None] * len(episodes)
        if group.scoring is not None:
            rewards = pools.rewards.collect(group.scoring)
        for episode, reward in zip(episodes, rewards, strict=True):
            found = next(left)
            sample = group.played.sample
            results.append(Result(sample, episode, found.masks_F, reward, found.scores))
    return results


def hidden(sample: Sample) -> bool:
    """Return True if the truth is not public. Such a sample has no targets and is not measured."""
    return sample.notes.hidden
