"""Reward actors and their pool. They hold the ground truth and score groups as they finish.

A reward actor reads the data set itself and looks a sample up by its uid, so ground truth never
comes from the prompt or from the rollout.

If a reward needs the segmenter's masks, the reward actor makes them itself. One call scores a
group, neither masks nor frames travel, and the step does not wait for segmenter actors with whole
videos in flight. Masks drawn by the policy come with the group.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from actors.drawing import Drawn
from actors.pool import Flight, Pool
from actors.segmenter import load_segmenter, masks_on_all_frames, masks_on_own_frames
from actors.setup import make_system
from actors.splits import read_split
from cluster.beat import patient
from cluster.lost import cause
from cluster.placement import Placement
from cluster.refs import Handle, Parcel, Ref, start_actor
from configs.schema import Config
from core.drawing.requests import DrawnMask
from core.geometry import uniform_frames
from core.masks import decode, encode
from core.pulse import working
from core.types import End, Episode, EpisodeMasks, Reward, Rle, Sample

if TYPE_CHECKING:
    from models.segmenters.base import Segmenter

# Rewards of a group, in the order of its episodes; None for a FAILED episode.
GroupRewards = tuple[Reward | None, ...]


class RewardActor:
    """Ground truth of some splits, and the reward of one system."""

    def __init__(self, cfg: Config, device: str, splits: Sequence[str]) -> None:
        import torch

        torch.set_num_threads(1)
        self.cfg = cfg
        self.device = device
        self.system = make_system(cfg)
        self.samples: dict[tuple[str, str], Sample] = {}
        self.read(cfg, splits)

    @patient
    def read(self, cfg: Config, splits: Sequence[str]) -> None:
        """Hold the ground truth of these splits of `cfg.data`, in the place of any other."""
        self.samples = {}
        for split in splits:
            for sample in read_split(cfg, split):
                self.samples[split, sample.uid] = sample

    def score(
        self, split: str, sample_uid: str, episodes: Sequence[Episode], drawn: Drawn | None = None
    ) -> GroupRewards:
        """Score one group. A FAILED episode is excluded rather than punished.

        Args:
            drawn: masks drawn by the policy, for each [SEG] prompt of each episode.
        """
        import torch

        # It holds for one thread, and Ray's for methods is not that of the constructor.
        torch.set_default_device(self.device)
        began = time.monotonic()
        sample = self.samples[split, sample_uid]
        rewards: list[Reward | None] = [None] * len(episodes)
        alive: list[int] = []
        for number, episode in enumerate(episodes):
            if episode.end is not End.FAILED:
                alive.append(number)
        if not alive:
            return tuple(rewards)

        # Masks drawn by the policy come with the group. Others are made here.
        finished = [episodes[number] for number in alive]
        if drawn is None:
            masks = self._masks(sample, finished)
        else:
            masks = [_decoded_drawn(drawn[number]) for number in alive]
        scored = self.system.score(sample, finished, masks)
        spent = time.monotonic() - began
        seen = self._seen(sample, finished, masks)
        for number, reward, shown in zip(alive, scored, seen, strict=True):
            rewards[number] = replace(reward, masks=shown, seconds=spent)
        return tuple(rewards)

    def _seen(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None
    ) -> list[tuple[tuple[int, Rle], ...]]:
        """Return the masks of each episode that the replay page may show, with their frames."""
        if masks is None or not self.cfg.record.episodes:
            return [()] * len(episodes)
        seen = []
        for episode, masks_M in zip(episodes, masks, strict=True):
            found = []
            for frame, mask_HW in zip(self._frames(sample, episode), masks_M, strict=True):
                if frame is not None and mask_HW is not None:
                    found.append((int(frame), encode(mask_HW)))
            seen.append(tuple(found))
        return seen

    def _frames(self, sample: Sample, episode: Episode) -> list[int | None]:
        """Return the frame of each mask of an episode; None for one that nobody will look at."""
        if self.system.masks_by == "segmenter":
            return [prompt.frame for prompt in episode.answer.prompts]
        if self.system.masks_by == "policy":
            return [seg.frame for seg in episode.answer.segs]
        num_frames = sample.video.num_frames
        shown = set(uniform_frames(num_frames, self.cfg.record.frames))
        return [frame if frame in shown else None for frame in range(num_frames)]

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter, loaded for the first reward. It keeps features of frames."""
        with working("load the segmenter", patience_s=math.inf):
            return load_segmenter(self.cfg, self.device)

    def _masks(self, sample: Sample, episodes: Sequence[Episode]) -> EpisodeMasks | None:
        """Make the masks for the system's reward; None if it needs none."""
        prompts = [episode.answer.prompts for episode in episodes]
        if self.system.masks_by == "segmenter":
            with working("segment"):
                return masks_on_own_frames(self.segmenter, sample.video, prompts)
        if self.system.masks_by == "tracker":
            with working("segment"):
                tracked = masks_on_all_frames(self.segmenter, sample.video, prompts)
            return [_decoded(rles_F) for rles_F in tracked]
        return None


def _decoded(rles: Iterable[Rle | None]) -> list[np.ndarray | None]:
    return [None if rle is None else decode(rle) for rle in rles]


def _decoded_drawn(masks: Iterable[DrawnMask | None]) -> list[np.ndarray | None]:
    return _decoded(None if mask is None else mask.rle for mask in masks)


@dataclass(frozen=True)
class ScoreTask:
    """A group to be scored.

    Attributes:
        scored: its episodes as `as_scored`, pickled.
    """

    split: str
    sample_uid: str
    scored: bytes
    drawn: Drawn | None = None


def as_scored(episodes: Sequence[Episode]) -> tuple[Episode, ...]:
    """Return episodes without what no reward reads, most of their numbers: prompts, log-probs."""
    found: list[Episode] = []
    for episode in episodes:
        turns = [replace(turn, prompt_ids=(), logprobs=()) for turn in episode.turns]
        found.append(replace(episode, turns=tuple(turns)))
    return tuple(found)


# A group whose rewards are being computed.
Scoring = Flight[ScoreTask, GroupRewards]


class RewardPool(Pool[RewardActor, ScoreTask, GroupRewards]):
    """All reward actors. After `reward.timeout_s` an actor counts as lost."""

    kind = "reward"

    def __init__(self, cfg: Config, placement: Placement, splits: Sequence[str]) -> None:
        self.cfg = cfg
        self.placement = placement
        self.splits = tuple(splits)
        super().__init__(cfg.reward.workers, timeout_s=cfg.reward.timeout_s, watch=placement.watch)

    def start(self, number: int) -> Handle[RewardActor]:
        options = self.placement.options("reward", self.seats[number])
        return start_actor(RewardActor, options, self.cfg, self.placement.device, self.splits)

    def send(self, worker: Handle[RewardActor], task: ScoreTask) -> Ref[GroupRewards]:
        episodes = cast(tuple[Episode, ...], Parcel(task.scored))
        arguments = (task.split, task.sample_uid, episodes, task.drawn)
        return worker.call_packed(RewardActor.score, *arguments)

    def give_up(self, task: ScoreTask, error: Exception) -> GroupRewards:
        # A missing reward is a failure of the program and must not turn into a number.
        raise RuntimeError(
            f"the reward of sample {task.sample_uid!r} did not arrive, from {self.attempts} actors "
            f"and within reward.timeout_s={self.timeout_s:g} s each; the last one: {cause(error)}. "
            "Look at the sample, or raise the setting"
        ) from error

    def read(self, cfg: Config, splits: Sequence[str]) -> None:
        """Give all actors, and their replacements, the ground truth of other splits.

        Call this while nothing is being scored. Raises the errors of `read_split`.

        Args:
            cfg: as that of the pool, apart from its data.
        """
        calls: dict[Ref[Any], int] = {}
        # An actor that starts meanwhile is among these, or reads them when it starts.
        with self._lock:
            self.cfg = cfg
            self.splits = tuple(splits)
            for number, worker in self.workers.items():
                calls[worker.call(RewardActor.read, cfg, self.splits)] = number
        self.wait_for_all(calls)

    def submit(
        self,
        split: str,
        sample_uid: str,
        episodes: tuple[Episode, ...],
        drawn: Drawn | None = None,
        scored: bytes | None = None,
    ) -> Scoring:
        """Start the scoring of one group; return at once.

        Args:
            drawn: masks drawn by the policy, if it draws any.
            scored: the episodes as `as_scored`, pickled, if that was done where they were played.
        """
        if scored is None:
            scored = pickle.dumps(as_scored(episodes), protocol=5)
        return self.hand_out(ScoreTask(split, sample_uid, scored, drawn))

    def collect(self, scoring: Scoring) -> GroupRewards:
        """Wait for the rewards of one group, at most `reward.timeout_s` from its submission.

        A time-out or a dead actor costs an attempt on a fresh actor.

        Raises:
            RuntimeError: `MAX_ATTEMPTS` failed.
        """
        return self.wait_for(scoring)
