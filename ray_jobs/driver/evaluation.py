"""The one inference path: play, make masks, score, measure.

`measured` yields results while other episodes still play (`ray_jobs.driver.measuring`). It has two
sinks: `evaluate` collects the results in memory for training, and `ray_jobs.evaluate` writes them
to disk. The episodes are played by the same rollout actors as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actors.rollout import Played
from core.types import End, Episode, Sample
from ray_jobs.driver.fit import aside_line
from ray_jobs.driver.masking import Masking
from ray_jobs.driver.measuring import Measuring, Pieces, ScoredGroup, hidden
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Evaluation, Result
from ray_jobs.driver.run import Run

# The step number in the seeds of evaluation episodes: never that of a training step.
EVAL_STEP = -1
# Chunks of groups that may wait for the segmenters before playing waits for them.
IN_FLIGHT = 2


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
    then: str = "",
) -> Iterator[list[Result]]:
    """Play episodes and measure them against the ground truth.

    The groups of a few short videos, or of a long one, are segmented and measured as soon as all of
    them have been played, while others still play. Playing waits while more than `IN_FLIGHT` chunks
    of groups are unfinished.

    Args:
        run: The run.
        pools: Its actors.
        masking: How masks are made.
        samples: The expressions to play.
        split: The split of the samples.
        title: The name of the phase on the display.
        chunk: Most groups to segment together.
        temperature: 0 plays greedily.
        repeats: Episodes of each sample.
        total: Failures are counted against this number of episodes; by default all of `samples`.
        then: What comes after it, for the display.

    Raises:
        ValueError, RuntimeError: As `stop_on_failures`; the finished groups come first.
    """
    share = run.cfg.rollout.max_failed_share
    total = total or len(samples) * repeats
    failed: list[Episode] = []
    too_long: dict[str, str] = {}
    unscored: list[Played] = []
    masking.prepare_evaluation()
    pieces = Pieces(samples, chunk, repeats)
    measuring = Measuring(pools, IN_FLIGHT * chunk)
    with run.progress.phase(title, len(samples), then) as phase:
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
                scored = start_scoring(unscored, split, pools, masking)
                measuring.put(pieces.take(scored))
                unscored = []
            yield from measuring.results()
            phase.advance(1)

        # The rest, also after too many failures: a finished group need not be played again.
        scored = start_scoring(unscored, split, pools, masking)
        measuring.put(pieces.take(scored))
        measuring.put(pieces.rest())
        yield from measuring.rest()
    if too_long:
        run.progress.note(aside_line(too_long, f"of {len(samples)} expressions, failed"))
    stop_on_failures(failed, share, total)


def start_scoring(
    groups: Sequence[Played], split: str, pools: Pools, masking: Masking
) -> list[ScoredGroup]:
    """Draw the masks of some groups, if the policy draws, and start the scoring of each.

    A reward may read any frame, so there is none where some frames are not labelled.
    """
    scored = []
    for group, drawn in zip(groups, masking.draw(groups), strict=True):
        scoring = None
        if not hidden(group.sample) and not group.sample.notes.others_unknown:
            uid = group.sample.uid
            scoring = pools.rewards.submit(split, uid, group.episodes, drawn, group.scored)
        scored.append(ScoredGroup(group, drawn, scoring))
    return scored


def evaluate(
    run: Run,
    pools: Pools,
    masking: Masking,
    split: str,
    title: str,
    *,
    temperature: float = 0.0,
    repeats: int = 1,
    then: str = "",
) -> Evaluation:
    """Measure the first `train.eval_samples` samples of a split, in memory.

    A failed episode counts as an empty answer.

    Raises:
        ValueError, RuntimeError: As `stop_on_failures`.
    """
    samples = run.measured_samples(split)
    # Every video is segmented once, with the prompts of all its expressions.
    pieces = measured(
        run,
        pools,
        masking,
        samples,
        split,
        title,
        chunk=len(samples),
        temperature=temperature,
        repeats=repeats,
        then=then,
    )
    results: list[Result] = []
    for piece in pieces:
        results += piece
    places = {sample.uid: place for place, sample in enumerate(samples)}
    results.sort(key=lambda result: places[result.sample.uid])
    return Evaluation(tuple(results))


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
