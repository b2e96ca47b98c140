"""One greedy episode of one sample, and its masks, by the actors of training and evaluation.

First the rollout actor, then the segmenter: at no time both, so that one GPU is enough. This file knows no data set,
and writes nothing.
"""

from __future__ import annotations

from contextlib import closing

import ray

from actors.rollout import RolloutPool
from actors.segmenter import SegmenterPool
from cluster.start import join
from configs.schema import Config
from core.types import Episode, Rle, Sample
from ray_jobs.evaluate import EVAL_STEP, stop_on_failures
from ray_jobs.progress import Progress

Masks = tuple[Rle | None, ...]


def one_episode(cfg: Config, sample: Sample, progress: Progress) -> tuple[Episode, Masks]:
    """Starts Ray and ends it. Masks in the video's pixels, None for a frame without one.

    Raises:
        ValueError: a setting that cannot work, or frames that cannot be read.
        RuntimeError: an actor that does not start, or an episode that failed, with its traceback.
    """
    with progress.phase("start: Ray"):
        join(cfg)
    try:
        episode = _play(cfg, sample, progress)
        with progress.phase("segment"), closing(SegmenterPool(cfg)) as segmenters:
            [masks_F] = segmenters.segment([(sample.video, episode.answer.prompts)])
    finally:
        ray.shutdown()
    return episode, masks_F


def _play(cfg: Config, sample: Sample, progress: Progress) -> Episode:
    with closing(RolloutPool(cfg)) as rollouts:
        with progress.phase("start: rollout engine"):
            rollouts.ready()
        with progress.phase("watch and answer"):
            [played] = rollouts.play([sample], group_size=1, temperature=0.0, step=EVAL_STEP)
    [episode] = played.episodes
    stop_on_failures([episode], 0.0)
    return episode
