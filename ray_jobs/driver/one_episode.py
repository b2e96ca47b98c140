"""One greedy episode of one sample, and its masks, by the actors of training and evaluation.

First the rollout actor, then who draws, if the policy draws masks itself, then the segmenter: at no time two of them,
so that one GPU is enough. This file knows no data set, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from actors.drawing import prompts_of
from actors.painter import PainterPool
from actors.rollout import Played, RolloutPool
from actors.segmenter import SegmenterPool
from cluster.placement import Placement
from cluster.start import joined
from configs.schema import Config
from core.drawing.requests import DrawnMask
from core.types import Episode, Rle, Sample
from ray_jobs.driver.evaluation import EVAL_STEP, stop_on_failures
from ray_jobs.record.progress import Progress

Masks = tuple[Rle | None, ...]


def one_episode(cfg: Config, sample: Sample, progress: Progress) -> tuple[Episode, Masks]:
    """Masks in the video's pixels, None for a frame without one.

    Raises:
        ValueError: a setting that cannot work, or frames that cannot be read.
        RuntimeError: an actor that does not start, or an episode that failed, with its traceback.
    """
    with joined(cfg, progress.phase("start: Ray")) as placement:
        played = _play(cfg, placement, sample, progress)
        [episode] = played.episodes
        drawn: Sequence[DrawnMask | None] = ()
        if cfg.mask.token:
            with progress.phase("draw"), closing(PainterPool(cfg, placement)) as painters:
                [[drawn]] = painters.draw([sample.video], [played.episodes], [played.media_ref])
        with progress.phase("segment"), closing(SegmenterPool(cfg, placement)) as segmenters:
            [masks_F] = segmenters.segment([(sample.video, prompts_of(episode, drawn))])
    return episode, masks_F


def _play(cfg: Config, placement: Placement, sample: Sample, progress: Progress) -> Played:
    with closing(RolloutPool(cfg, placement)) as rollouts:
        with progress.phase("start: rollout engine"):
            rollouts.ready()
        with progress.phase("watch and answer"):
            [played] = rollouts.play([sample], group_size=1, temperature=0.0, step=EVAL_STEP)
    stop_on_failures(played.episodes, 0.0)
    return played
