"""The watched split of a training: who measures it, and what follows from its figures.

Without `train.eval_beside` the engines of the training play it, and the steps wait. With it a
checkpoint is measured beside the next steps (`ray_jobs.driver.beside`), by an engine, a reward
actor and a segmenter of its own, which start for one evaluation and end with it. They read the
policy out of the checkpoint, as `ray_jobs.evaluate` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.lost import Deaths
from cluster.watch import Watch
from configs.load import policy_path
from configs.schema import Config
from ray_jobs.driver.beside import Beside
from ray_jobs.driver.evaluation import evaluate
from ray_jobs.driver.masking import Masking, make_masking
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import (
    SUMMARY,
    Evaluation,
    Result,
    read_means,
    write_evaluation,
)
from ray_jobs.driver.run import Run


class PolicyEvaluator:
    """Measures the policies of checkpoints on the watched split, one at a time."""

    def __init__(self, run: Run) -> None:
        """Start nothing yet.

        Args:
            run: The training; its samples have their hints already.
        """
        self._run = run
        self._split = run.cfg.data.eval_split
        self._pools: Pools | None = None

    def measure(self, step: int, folder: Path) -> Evaluation:
        """Measure the policy of a checkpoint, and write the files of the evaluation.

        Raises:
            ValueError, RuntimeError: As `evaluate`.
        """
        run = self._run
        title = f"step {step}, {self._split}"
        deaths = Deaths(lambda text: run.progress.note(f"{title}: {text}"))
        watch = Watch(deaths, run.placement.watch.limits)
        placement = run.placement.beside(watch)
        own = replace(run, cfg=config_of(run.cfg, folder), placement=placement)
        try:
            with Pools(own, reward_splits=[self._split], title=f"{title}: ") as pools:
                self._pools = pools
                masking = make_masking(own.cfg, pools)
                found = evaluate(own, pools, masking, self._split, f"{title}, beside")
        finally:
            self._pools = None
            watch.close()
        evaluation = Evaluation(of_version(found.results, step))
        # The driver uses its words for the episodes of a step meanwhile.
        words = replace(run.keeping.words, recent=[])
        write_evaluation(_folder(run, step), evaluation, words)
        return evaluation

    def close(self) -> None:
        """End all actors, also of an evaluation under way; from another thread."""
        pools = self._pools
        if pools is not None:
            pools.close()


def config_of(cfg: Config, folder: Path) -> Config:
    """Return the settings of an evaluation beside training: one actor of a kind.

    Args:
        cfg: The settings of the training.
        folder: The checkpoint.
    """
    return replace(
        cfg,
        policy=replace(cfg.policy, path=policy_path(str(folder.absolute()))),
        rollout=replace(cfg.rollout, workers=1, min_workers=1),
        reward=replace(cfg.reward, workers=1),
        segmenter=replace(cfg.segmenter, workers=1),
        # Its engine never gets weights from the learner.
        cluster=replace(cfg.cluster, weight_backend="object_store"),
    )


def of_version(results: Sequence[Result], version: int) -> tuple[Result, ...]:
    """Return results whose turns say the version of the weights, which their engine cannot know."""
    found = []
    for result in results:
        turns = tuple(replace(turn, version=version) for turn in result.episode.turns)
        found.append(replace(result, episode=replace(result.episode, turns=turns)))
    return tuple(found)


def evaluations_beside(run: Run) -> Beside | None:
    """Return the evaluations beside a training; None if its own engines play them."""
    if not run.cfg.train.evaluates_beside:
        return None
    return Beside(PolicyEvaluator(run), run.progress.note)


def watch(run: Run, pools: Pools, masking: Masking, step: int) -> float:
    """Measure the watched split with the engines of the training; return its J&F in percent."""
    split = run.cfg.data.eval_split
    then = "measure the policy again"
    if step < run.cfg.train.steps:
        then = f"step {step + 1}"
    evaluation = evaluate(run, pools, masking, split, f"step {step}, {split}", then=then)
    run.keeping.evaluation(step, split, evaluation)
    return show(run, step, evaluation.means)


def take_done(run: Run, beside: Beside) -> dict[Path, float]:
    """Show the evaluations that have ended; return the J&F of each checkpoint, in percent."""
    found = {}
    for done in beside.take():
        if done.evaluation is not None:
            run.keeping.keep_evaluation(done.step, run.cfg.data.eval_split, done.evaluation)
            found[done.folder] = show(run, done.step, done.evaluation.means)
    return found


def show(run: Run, step: int, means: Mapping[str, float]) -> float:
    """Show the means of an evaluation of the watched split; return its J&F in percent."""
    split = run.cfg.data.eval_split
    run.tracker.metrics(step, {f"{split}/{name}": mean for name, mean in means.items()})
    run.progress.note(f"step {step}, {split}: J&F {means['jf']:.3f}")
    return means["jf"]


def written(run: Run, step: int) -> dict[str, float] | None:
    """Return the means of the evaluation of a step that is on disk; None without one."""
    return read_means(_folder(run, step))


def forget(run: Run, step: int) -> None:
    """Let an evaluation on disk count no more: the step was learned anew, with other groups."""
    (_folder(run, step) / SUMMARY).unlink(missing_ok=True)


def _folder(run: Run, step: int) -> Path:
    return run.record.evaluation_folder(step) / run.cfg.data.eval_split
