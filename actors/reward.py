"""Reward actors: hold the ground truth and score whole groups as they finish.

A reward actor reads the data set itself and looks a sample up by its uid: what it scores against never comes from
the prompt or from the rollout. It knows no policy and no tokens.

Where a reward needs the segmenter's masks, the reward actor makes them itself: one call still scores a group, neither
masks nor frames travel, and the segmenter actors, which keep whole videos in flight, need not wait in the step. Masks
that the policy draws come with the group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray

from actors.drawing import Drawn
from actors.segmenter import load_segmenter, masks_on_all_frames, masks_on_own_frames
from actors.setup import make_system
from cluster.placement import Placement
from configs.schema import Config
from core.drawing.requests import DrawnMask
from core.masks import decode
from core.types import End, Episode, EpisodeMasks, Reward, Sample
from data.difficulty import ratings_file, with_ratings
from data.load import load_samples

if TYPE_CHECKING:
    from models.segmenters.base import Segmenter


def read_split(cfg: Config, split: str) -> list[Sample]:
    """The samples of a split with their ratings, where `difficulty.folder` is given: driver and reward read the same.

    Only training is paid by difficulty, so its split must be rated; another is rated if there is a file of it.
    Errors as `data.load.load_samples` and `data.difficulty.with_ratings`.
    """
    data = cfg.data
    folder = cfg.difficulty.folder
    samples = load_samples(data.format, data.root, split, data.no_target)
    if split == data.train_split or ratings_file(folder, split).is_file():
        return with_ratings(samples, folder, split)
    return samples


class RewardActor:
    """Scores groups of the splits that it was given."""

    def __init__(self, cfg: Config, device: str, splits: Sequence[str]) -> None:
        import torch

        torch.set_num_threads(1)
        torch.set_default_device(device)
        self.cfg = cfg
        self.device = device
        self.system = make_system(cfg)
        self.samples: dict[str, Sample] = {}
        for split in splits:
            for sample in read_split(cfg, split):
                self.samples[f"{split}:{sample.uid}"] = sample

    def score(
        self, split: str, sample_uid: str, episodes: Sequence[Episode], drawn: Drawn | None = None
    ) -> list[Reward | None]:
        """Rewards of one group, in order; None for a FAILED episode, which is excluded rather than punished.

        `drawn`: what the policy drew itself, for each of the episodes' segs.
        """
        sample = self.samples[f"{split}:{sample_uid}"]
        alive = [i for i, e in enumerate(episodes) if e.end is not End.FAILED]
        played = [episodes[i] for i in alive]
        masks = (
            self._masks(sample, played) if drawn is None else _decoded([drawn[i] for i in alive])
        )
        rewards = iter(self.system.score(sample, played, masks) if alive else [])
        return [None if e.end is End.FAILED else next(rewards) for e in episodes]

    @cached_property
    def segmenter(self) -> Segmenter:
        """Loaded for the first group whose reward needs it. It is frozen and keeps the features of frames."""
        return load_segmenter(self.cfg, self.device)

    def _masks(self, sample: Sample, episodes: Sequence[Episode]) -> EpisodeMasks | None:
        video = sample.video
        prompts = [episode.answer.prompts for episode in episodes]
        if self.system.masks_by == "segmenter":
            return masks_on_own_frames(self.segmenter, video, prompts)
        if self.system.masks_by == "tracker":
            tracked = masks_on_all_frames(self.segmenter, video, prompts)
            return [[None if rle is None else decode(rle) for rle in rles_F] for rles_F in tracked]
        return None


def _decoded(drawn: Sequence[Sequence[DrawnMask | None]]) -> EpisodeMasks:
    return [[made if made is None else decode(made.rle) for made in masks] for masks in drawn]


@dataclass(frozen=True)
class Scoring:
    """A group whose rewards are being computed."""

    split: str
    sample_uid: str
    episodes: tuple[Episode, ...]
    worker: int
    started: float
    ref: Any
    drawn: Drawn | None = None


class RewardPool:
    """Driver side: hands groups to reward actors, and gives up on one that takes too long."""

    def __init__(self, cfg: Config, placement: Placement, splits: Sequence[str]) -> None:
        self.cfg = cfg
        self.placement = placement
        self.splits = tuple(splits)
        self.workers = [self._start() for _ in range(cfg.reward.workers)]
        self._next = 0

    def _start(self) -> Any:
        return (
            ray.remote(RewardActor)
            .options(**self.placement.options("reward"))
            .remote(self.cfg, self.placement.device, self.splits)
        )

    def submit(
        self, split: str, sample_uid: str, episodes: tuple[Episode, ...], drawn: Drawn | None = None
    ) -> Scoring:
        """Starts the scoring of one group, with the masks that its policy drew; returns at once."""
        worker = self._next % len(self.workers)
        self._next += 1
        ref = self.workers[worker].score.remote(split, sample_uid, episodes, drawn)
        return Scoring(split, sample_uid, episodes, worker, time.monotonic(), ref, drawn)

    def collect(self, scoring: Scoring, retried: bool = False) -> tuple[Reward | None, ...]:
        """Waits for the rewards of one group, at most `reward.timeout_s` from its submission.

        A time-out or a dead actor costs one retry on a fresh actor; then it is an error, because a reward that
        cannot be computed is our fault and must not turn into a number.
        """
        left = self.cfg.reward.timeout_s - (time.monotonic() - scoring.started)
        try:
            return tuple(ray.get(scoring.ref, timeout=max(left, 1.0)))
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorDiedError) as error:
            if retried:
                raise RuntimeError(
                    f"the reward of sample {scoring.sample_uid!r} did not arrive within reward.timeout_s="
                    f"{self.cfg.reward.timeout_s:g} s, twice ({type(error).__name__}): raise it or look at the sample"
                ) from error
            ray.kill(self.workers[scoring.worker])
            self.workers[scoring.worker] = self._start()
            again = self.submit(scoring.split, scoring.sample_uid, scoring.episodes, scoring.drawn)
            return self.collect(again, retried=True)

    def close(self) -> None:
        for worker in self.workers:
            ray.kill(worker)
