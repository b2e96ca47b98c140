"""One greedy episode of one sample, and its masks, with the actors of training and evaluation.

One pool runs at a time and one GPU is enough: rollout, then drawer (if the policy draws), then
segmenter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from actors.drawer import DrawerPool
from actors.drawing import tracking_prompts
from actors.rollout import Played, RolloutPool
from actors.segmenter import SegmenterPool
from cluster.placement import Placement
from cluster.start import joined
from configs.schema import Config
from core.drawing.requests import DrawnMask
from core.types import Episode, Rle, Sample
from ray_jobs.driver.evaluation import EVAL_STEP, stop_on_failures
from ray_jobs.record.progress import Progress

# One for each frame, in the video's pixels; None for a frame without the object.
FrameMasks = tuple[Rle | None, ...]


def one_episode(
    cfg: Config, sample: Sample, progress: Progress
) -> tuple[Episode, FrameMasks, list[FrameMasks]]:
    """Play a sample and segment the answer: the union of its objects, and each of them.

    Raises:
        ValueError: An impossible setting, or unreadable frames.
        RuntimeError: An actor did not start, or the episode failed, with its traceback.
    """
    with joined(cfg, "segment", progress.phase("start: Ray"), progress.note) as placement:
        played = _play(cfg, placement, sample, progress)
        [episode] = played.episodes

        drawn: Sequence[DrawnMask | None] = ()
        if cfg.mask.token:
            with progress.phase("draw"), closing(DrawerPool(cfg, placement)) as drawers:
                # One group of one episode.
                groups = drawers.draw([sample.video], [played.episodes])
                [[drawn]] = groups

        with progress.phase("segment"), closing(SegmenterPool(cfg, placement)) as segmenters:
            prompts = tracking_prompts(episode, drawn)
            # Equal prompts are tracked once.
            wanted = [prompts, *((prompt,) for prompt in prompts)]
            masks_F, *objects_OF = segmenters.segment([(sample.video, each) for each in wanted])
    return episode, masks_F, objects_OF


def _play(cfg: Config, placement: Placement, sample: Sample, progress: Progress) -> Played:
    with closing(RolloutPool(cfg, placement)) as rollouts:
        with progress.phase("start: rollout engine"):
            rollouts.ready()
        with progress.phase("watch and answer"):
            [played] = rollouts.play([sample], group_size=1, temperature=0.0, step=EVAL_STEP)
    stop_on_failures(played.episodes, 0.0)
    return played
