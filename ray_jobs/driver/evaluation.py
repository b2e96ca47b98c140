"""The one inference path: play, make masks, score, measure.

`measured` yields results while other episodes still play. It has two sinks: `evaluate` collects the
results in memory for training, and `ray_jobs.evaluate` writes them to disk. The episodes are played
by the same rollout actors as in training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from actors.drawing import Drawn, tracking_prompts
from actors.reward import Scoring
from actors.rollout import Played
from actors.segmenter import VideoMasks
from core.evaluation.protocols import measure
from core.types import End, Episode, Reward, Sample
from ray_jobs.driver.fit import aside_line
from ray_jobs.driver.masking import Masking
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Evaluation, Result
from ray_jobs.driver.run import Run
from ray_jobs.record.overlay import keyframes_of

# The step number in the seeds of evaluation episodes: never that of a training step.
EVAL_STEP = -1
# Chunks that may wait for the segmenters before playing waits for them.
IN_FLIGHT = 2


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


def measured(
    run: Run,
    pools: Pools,
    masking: Masking,
    samples: Sequence[Sample],
    split: str,
    title: str,
    *,
    chunk: int,
    temperature: float = 0.0,
    repeats: int = 1,
    total: int = 0,
) -> Iterator[list[Result]]:
    """Play episodes and measure them against the ground truth.

    Groups are measured in chunks by a background thread, while other groups still play. Playing
    waits while more than `IN_FLIGHT` chunks are unfinished.

    Args:
        run: The run.
        pools: Its actors.
        masking: How masks are made.
        samples: The expressions to play.
        split: The split of the samples.
        title: The name of the phase on the display.
        chunk: Groups to segment together.
        temperature: 0 plays greedily.
        repeats: Episodes of each sample.
        total: Failures are counted against this number of episodes; by default all of `samples`.

    Raises:
        ValueError, RuntimeError: As `stop_on_failures`; complete chunks come first.
    """
    share = run.cfg.rollout.max_failed_share
    total = total or len(samples) * repeats
    failed: list[Episode] = []
    too_long: dict[str, str] = {}
    unscored: list[Played] = []
    scored: list[ScoredGroup] = []
    chunks: deque[Future[list[Result]]] = deque()
    masking.prepare_evaluation()
    # The background thread uses the pool as well, so it must not be the one to start it.
    _ = pools.segmenters

    with (
        run.progress.phase(title, total=len(samples)) as phase,
        ThreadPoolExecutor(max_workers=1) as background,
    ):
        groups = pools.rollouts.play(
            samples, group_size=repeats, temperature=temperature, step=EVAL_STEP
        )
        for group in groups:
            for episode in group.episodes:
                if episode.too_long:
                    too_long[group.sample.uid] = episode.error
                elif episode.end is End.FAILED:
                    failed.append(episode)
            if len(failed) > share * total:
                break
            unscored.append(group)
            if len(unscored) == masking.groups_together:
                scored += start_scoring(unscored, split, pools, masking)
                unscored = []
            if len(scored) >= chunk:
                chunks.append(background.submit(measure_chunk, scored, pools))
                scored = []
            while chunks and (len(chunks) > IN_FLIGHT or chunks[0].done()):
                yield chunks.popleft().result()
            phase.advance(1)

        # The rest, also after too many failures: a finished group need not be played again.
        scored += start_scoring(unscored, split, pools, masking)
        chunks.append(background.submit(measure_chunk, scored, pools))
        while chunks:
            yield chunks.popleft().result()
    if too_long:
        run.progress.note(aside_line(too_long, f"of {len(samples)} expressions, failed"))
    stop_on_failures(failed, share, total)


def start_scoring(
    groups: Sequence[Played], split: str, pools: Pools, masking: Masking
) -> list[ScoredGroup]:
    """Draw the masks of some groups, if the policy draws, and start the scoring of each."""
    scored = []
    for group, drawn in zip(groups, masking.draw(groups), strict=True):
        scoring = None
        if not hidden(group.sample):
            scoring = pools.rewards.submit(split, group.sample.uid, group.episodes, drawn)
        scored.append(ScoredGroup(group, drawn, scoring))
    return scored


def measure_chunk(groups: Sequence[ScoredGroup], pools: Pools) -> list[Result]:
    """Segment the episodes of some groups and measure their masks; in the order of the samples."""
    # Arrival differs from run to run; the order of the samples does not.
    groups = sorted(groups, key=lambda group: group.played.index)
    masks = iter(segment_groups(groups, pools))

    results = []
    for group in groups:
        sample = group.played.sample
        episodes = group.played.episodes
        rewards: Sequence[Reward | None] = [None] * len(episodes)
        if group.scoring is not None:
            rewards = pools.rewards.collect(group.scoring)
        for episode, reward in zip(episodes, rewards, strict=True):
            masks_F = tuple(next(masks))
            scores: Mapping[str, float] = {}
            if not hidden(sample):
                scores = measure(sample, masks_F, keyframes_of(episode)).scores
            results.append(Result(sample, episode, masks_F, reward, scores))
    return results


def segment_groups(groups: Sequence[ScoredGroup], pools: Pools) -> list[VideoMasks]:
    """Return the masks of each episode of each group, in order."""
    prompts = []
    for group in groups:
        video = group.played.sample.video
        for number, episode in enumerate(group.played.episodes):
            drawn = () if group.drawn is None else group.drawn[number]
            prompts.append((video, tracking_prompts(episode, drawn)))
    return pools.segmenters.segment(prompts)


def evaluate(
    run: Run,
    pools: Pools,
    masking: Masking,
    split: str,
    title: str,
    *,
    temperature: float = 0.0,
    repeats: int = 1,
) -> Evaluation:
    """Measure the first `train.eval_samples` samples of a split, in memory.

    A failed episode counts as an empty answer.

    Raises:
        ValueError, RuntimeError: As `stop_on_failures`.
    """
    samples = run.measured_samples(split)
    # One chunk: every video is segmented once, with the prompts of all its expressions.
    chunks = measured(
        run,
        pools,
        masking,
        samples,
        split,
        title,
        chunk=len(samples),
        temperature=temperature,
        repeats=repeats,
    )
    results: list[Result] = []
    for chunk in chunks:
        results += chunk
    return Evaluation(tuple(results))


def hidden(sample: Sample) -> bool:
    """Return True if the truth is not public. Such a sample has no targets and is not measured."""
    return sample.notes.hidden


def stop_on_failures(episodes: Sequence[Episode], max_share: float, total: int = 0) -> None:
    """Raise the error of the first failed episode if too many failed.

    Dialogues that are too long do not count: a longer limit, not another start, would help them.

    Args:
        episodes: Episodes of any end.
        max_share: The tolerated share of failures.
        total: The share refers to this number of episodes; by default to all of `episodes`.

    Raises:
        ValueError: Data or settings are wrong; the message names the file and the remedy.
        RuntimeError: Any other cause, with its traceback.
    """
    failed = []
    for episode in episodes:
        if episode.end is End.FAILED and not episode.too_long:
            failed.append(episode)
    total = total or len(episodes)
    if len(failed) <= max_share * total:
        return

    error = failed[0].error
    summary = (
        f"{len(failed)} of {total} episodes failed, more than rollout.max_failed_share="
        f"{max_share:g}"
    )
    # The last line of a traceback is the error itself.
    last_line = error.strip().splitlines()[-1]
    kind, _, message = last_line.partition(": ")
    if kind == "ValueError":
        raise ValueError(f"{message} ({summary})")
    raise RuntimeError(f"{summary}. The first one:\n{error}")
