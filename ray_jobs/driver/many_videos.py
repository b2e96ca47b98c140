"""Segment many videos with one start of the engines, and go on after a kill.

    <out>/  config.yaml  <name of a video>/  the files of `ray_jobs.segment` for one video

The videos take the path of an evaluation without public truth: all engines play, segmenters follow
as soon as a video has been played, and its files are written while others play.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from configs.schema import Config
from core.types import End, Sample
from ray_jobs.driver.evaluation import measured
from ray_jobs.driver.masking import make_masking
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.preflight import check_prompts
from ray_jobs.driver.results import Result
from ray_jobs.driver.run import Run
from ray_jobs.driver.video_list import Line, Wanted, read_all
from ray_jobs.record.segmented import (
    Maker,
    Style,
    is_answered,
    verdict,
    video_in,
    write_results,
)

# One video without an answer is no reason to lose the others.
FAILED_SHARE = 0.999


def segment_many(
    lines: Sequence[Line],
    out: Path,
    cfg: Config,
    style: Style,
) -> None:
    """Segment videos; a result that is there already is not made again, a stale one is.

    Args:
        out: The folder of all results.
        style: What is written beside the masks.

    Raises:
        ValueError: Some videos have no result; all others are finished.
    """
    wanted, without = read_all(lines, out)
    maker = Maker.of(cfg)
    waiting = [each for each in wanted if not is_answered(each.folder, maker, each.sample, style)]
    if len(waiting) < len(wanted):
        print(f"{len(wanted) - len(waiting)} of {len(lines)} videos were finished before")
    stale = [each for each in waiting if video_in(each.folder)]
    if stale:
        print(
            f"{len(stale)} of {len(lines)} results are of another video, sentence, policy, setting "
            "or option, and are made again"
        )
    if waiting:
        without += _segment(waiting, out, maker, style)
    if without:
        listed = "\n".join(without)
        raise ValueError(f"{len(without)} of {len(lines)} videos have no result:\n{listed}")


def _segment(waiting: Sequence[Wanted], out: Path, maker: Maker, style: Style) -> list[str]:
    """Play, segment and write; return a message for each video without a result."""
    cfg = replace(maker.cfg, runs=str(out.parent), name=out.name)
    cfg.rollout = replace(cfg.rollout, max_failed_share=FAILED_SHARE)
    by_uid = {each.sample.uid: each for each in waiting}
    failed = []
    with (
        Run.open(cfg, splits=[], job="evaluate") as run,
        Pools(run, reward_splits=[]) as pools,
    ):
        for result in _results(run, pools, [each.sample for each in waiting]):
            each = by_uid[result.sample.uid]
            episode = result.episode
            if episode.end is End.FAILED:
                reason = episode.error.strip().splitlines()[-1]
                failed.append(f"{each.sample.video.path}: {reason}")
                continue
            own = replace(style, rate=each.rate)
            write_results(
                each.folder, maker, each.sample, episode, result.masks_F, own, result.objects_OF
            )
            run.progress.note(f"{each.folder}: {verdict(episode, result.masks_F)}")
    return failed


def _results(run: Run, pools: Pools, samples: Sequence[Sample]) -> Iterator[Result]:
    """Yield the result of each sample, those of one video together."""
    run.progress.note(str(check_prompts(run.cfg, run.system, [samples])))
    masking = make_masking(run.cfg, pools)
    chunk = run.cfg.evaluate.chunk
    for results in measured(run, pools, masking, samples, "", "segment", chunk=chunk):
        yield from results
