"""GRPO, one step top to bottom: play, score, judge, learn, publish, record.

    python -m ray_jobs.train revseg_tiny learner.lr=1e-4 rollout.workers=2

`train` evaluates, runs the steps, evaluates again, and prints what changed. It knows no system by name: the system
is what `system.name` says, and masks are made only where evaluation or its reward needs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.drawing import REWARDED, Drawn, to_learn
from actors.learner_pool import LearnerPool
from actors.reward import Scoring
from actors.rollout import Played
from configs.load import resolve
from configs.schema import Config
from core.grpo import judge
from core.types import End, Group, Sample
from ray_jobs.driver.evaluation import Evaluation, mean_parts, stop_on_failures, write
from ray_jobs.driver.report import finish, values
from ray_jobs.driver.session import Session, run_job
from ray_jobs.record import checkpoint


@dataclass
class Clock:
    """Wall seconds of the stages of a step; what overlaps is counted where the driver waited."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def samples_of_step(samples: Sequence[Sample], step: int, count: int, seed: int) -> list[Sample]:
    """The `count` prompts of step `step` (from 1): epochs are reshuffled, and the position follows from the step."""
    picked = []
    position = (step - 1) * count
    for i in range(position, position + count):
        epoch, place = divmod(i, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        picked.append(samples[order[place]])
    return picked


def play(session: Session, step: int) -> list[tuple[Played, Scoring | None]]:
    """Steps 1 to 3 for the P prompts of a step: groups that were played and are being scored, in a fixed order.

    Of a policy that draws masks itself step 1 alone: see `draw`.
    """
    cfg = session.cfg
    rollout = session.cfg.rollout
    samples_P = samples_of_step(
        session.split(cfg.data.train_split), step, rollout.prompts_per_step, cfg.seed
    )
    scored: list[tuple[Played, Scoring | None]] = []
    # 1 play: G episodes of each prompt; groups arrive as they finish, in any order
    # 2 mask: only where the reward needs masks; those of the segmenter the reward actor makes before it scores
    # 3 score: each group as soon as it is there, while others still decode
    submit = session.rewards.submit
    split = cfg.data.train_split
    for group in session.rollouts.play(
        samples_P,
        group_size=rollout.group_size,
        temperature=rollout.temperature,
        step=step,
        training=True,
    ):
        scored.append(
            (group, None if session.draws else submit(split, group.sample.uid, group.episodes))
        )
    return sorted(
        scored, key=lambda pair: pair[0].index
    )  # the order of arrival must not change the update


def draw(session: Session, groups: Sequence[Played]) -> tuple[list[Drawn], list[Scoring]]:
    """Steps 2 and 3 for a policy that draws: a forward pass over all episodes, on the ranks that will learn from them.

    Not while others still play: all ranks must be free, and with `rollout.max_staleness=1` they are learning then.
    """
    drawn_P = session.masks(groups, REWARDED)
    split = session.cfg.data.train_split
    return drawn_P, [
        session.rewards.submit(split, group.sample.uid, group.episodes, drawn)
        for group, drawn in zip(groups, drawn_P, strict=True)
    ]


def played_steps(
    session: Session, first: int, last: int
) -> Iterator[tuple[int, Callable[[], list]]]:
    """(step, how to get its groups) for each step.

    With `rollout.max_staleness=0` a step is played when it is asked for, with the newest weights: strictly on policy.
    With 1 the next step is played in a thread while this one is learned, with weights that are one update old (or
    change while it is played); truncated importance weights correct for that.
    """
    if session.cfg.rollout.max_staleness == 0:
        for step in range(first, last + 1):
            yield step, partial(play, session, step)
        return
    with ThreadPoolExecutor(max_workers=1) as ahead:
        coming = ahead.submit(play, session, first)
        for step in range(first, last + 1):
            coming.result()
            now = coming
            coming = ahead.submit(play, session, step + 1) if step < last else coming
            yield step, now.result


def train_step(
    session: Session, learner: LearnerPool, step: int, get: Callable[[], list]
) -> dict[str, float]:
    """One GRPO step on P prompts; returns its metrics and writes them to the run folder."""
    cfg = session.cfg
    clock = Clock()
    with session.progress.phase("play"):  # 1 to 3, see `play`
        played, scorings = (list(column) for column in zip(*get(), strict=True))
    clock.lap("play")
    drawn_P = None
    if session.draws:  # 2 and 3, see `draw`
        with session.progress.phase("mask"):
            drawn_P, scorings = draw(session, played)
        clock.lap("mask")
    with session.progress.phase("score"):
        rewards_P = [session.rewards.collect(scoring) for scoring in scorings]
    clock.lap("score")
    # 4 judge: advantages relative to the group
    groups = [
        judge(
            Group(g.sample.uid, g.episodes, r),
            std=cfg.grpo.advantage_std,
            eps=cfg.grpo.advantage_eps,
        )
        for g, r in zip(played, rewards_P, strict=True)
    ]
    stop_on_failures([e for g in groups for e in g.episodes], cfg.rollout.max_failed_share)
    # 5 learn: whole groups; pixels go from the rollout actors to the learners by reference
    masks = (
        to_learn([g.sample for g in played], [g.episodes for g in played], drawn_P, cfg.mask)
        if drawn_P
        else None
    )
    with session.progress.phase("learn"):
        update = learner.learn(groups, [g.media_ref for g in played], masks)
    clock.lap("learn")
    # 6 publish: the next step plays with the new weights
    with session.progress.phase("publish"):
        session.rollouts.take(learner.publish(step))
    clock.lap("publish")
    metrics = (
        group_metrics(groups)
        | update.metrics
        | {"loss": update.loss, "grad_norm": update.grad_norm}
    )
    metrics["tokens_per_second"] = metrics["completion_tokens"] / max(clock.seconds["play"], 1e-3)
    session.run.write_step(step, metrics, clock.seconds)
    session.run.write_episodes(step, groups)
    session.mlflow.metrics(step, metrics | {f"seconds/{k}": v for k, v in clock.seconds.items()})
    session.progress.step(step, metrics, clock.seconds)
    stop_on_bad_steps(cfg, metrics, session.run.checkpoints)
    stop_on_gap(cfg, metrics)
    return metrics


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Means over the episodes of a step: reward and parts, lengths, ends."""
    episodes = [e for g in groups for e in g.episodes]
    rewards = [r for g in groups for r in g.rewards if r is not None]
    metrics = {"reward": float(np.mean([r.total for r in rewards]))}
    metrics |= {
        f"reward/{name}": mean for name, mean in mean_parts([r.parts for r in rewards]).items()
    }
    metrics |= {
        f"end/{end.value}": sum(e.end is end for e in episodes) / len(episodes) for end in End
    }
    metrics["turns"] = float(np.mean([sum(t.trainable for t in e.turns) for e in episodes]))
    metrics["completion_tokens"] = float(
        sum(len(t.completion_ids) for e in episodes for t in e.turns)
    )
    metrics["failed_episodes"] = float(sum(e.end is End.FAILED for e in episodes))
    metrics["zero_variance_groups"] = float(sum(not g.informative for g in groups))
    return metrics


def stop_on_bad_steps(cfg: Config, metrics: dict[str, float], checkpoints: Path) -> None:
    """Skipped steps leave the weights alone; many in a row mean that every further one will be skipped too."""
    if metrics["bad_steps"] < cfg.learner.max_bad_steps:
        return
    good = checkpoint.latest(checkpoints)
    where = (
        f"go on from the last good checkpoint, {good}" if good else "no checkpoint was written yet"
    )
    raise RuntimeError(
        f"{metrics['bad_steps']:.0f} optimizer steps in a row had a loss or gradient that is not finite and were "
        f"skipped (learner.max_bad_steps={cfg.learner.max_bad_steps}): {where}, with a smaller learner.lr"
    )


def stop_on_gap(cfg: Config, metrics: dict[str, float]) -> None:
    """The trace contract: the learner must see what the engine saw. Only on policy are their weights the same."""
    if (
        cfg.rollout.max_staleness == 0
        and metrics.get("logprob_gap_mean", 0.0) > cfg.train.max_logprob_gap
    ):
        raise RuntimeError(
            f"mean |log-prob gap| between engine and learner is {metrics['logprob_gap_mean']:.2e}, above "
            f"train.max_logprob_gap={cfg.train.max_logprob_gap:g}: they do not see the same tokens, images or weights"
        )


def save(session: Session, learner: LearnerPool, step: int, state: dict[str, Any]) -> Path:
    """Checkpoint; `best` points to the one that did best on the watched split, or to the newest if none is watched."""
    watched = state["watched"]
    with session.progress.phase(f"checkpoint step_{step}"):
        folder = checkpoint.save(session.run.checkpoints, step, learner.save, state)
    if not watched or watched.get(str(step)) == max(watched.values()):
        session.run.mark_best(folder)
    checkpoint.prune(session.run.checkpoints, session.cfg.train.keep_checkpoints)
    return folder


def watch(session: Session, step: int, state: dict[str, Any]) -> None:
    """Greedy J&F on the split that training may look at; the test split is only for the table before and after."""
    split = session.cfg.data.eval_split
    evaluation = session.evaluate(split, f"step {step}, {split}")
    write(session.run.evaluation_folder(step) / split, evaluation)
    state["watched"][str(step)] = evaluation.mean("jf")
    session.mlflow.metrics(
        step, {f"{split}/{what}": evaluation.mean(what) for what in ("jf", "reward")}
    )
    session.progress.note(f"step {step}, {split}: J&F {evaluation.mean('jf'):.3f}")


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def measure(session: Session, title: str) -> dict[str, Evaluation]:
    """The table's two rows: greedy, and sampled at the training temperature with fixed seeds."""
    cfg = session.cfg
    sampled = session.evaluate(
        cfg.data.test_split, f"{title}, sampled", 1.0, cfg.train.sampled_repeats
    )
    greedy = session.evaluate(cfg.data.test_split, f"{title}, greedy")
    return {"greedy": greedy, "sampled": sampled}


def train(argv: Sequence[str]) -> dict[str, Any]:
    """Trains as the configuration says; returns what it wrote to summary.json."""
    with Session.open(argv) as session:
        cfg = session.cfg
        run = session.run
        resume_from = checkpoint.find(run.checkpoints, cfg.train.resume)
        if resume_from is not None:
            check_fits(cfg, resume_from)
        first_rollout = session.rollouts and time.monotonic() - session.began
        state: dict[str, Any] = {
            "step": 0,
            "before": {},
            "watched": {},
            "start_seconds": first_rollout,
        }
        if (
            session.draws
        ):  # every evaluation asks the learner for masks, for the newest head is nowhere else
            session.learner = start_learner(session)
        splits = (
            [cfg.data.test_split, cfg.data.eval_split]
            if cfg.train.eval_every
            else [cfg.data.test_split]
        )
        session.freeze(splits, again=resume_from is None)
        if resume_from is None:
            run.truncate_after(0)  # of a run that was killed before its first checkpoint
            before = measure(session, "before") if cfg.train.eval_before else {}
            state["before"] = {k: values(e) for k, e in before.items()}
            for k, e in before.items():
                write(run.evaluation_folder(0) / k, e)
        learner = session.learner or start_learner(session)
        if resume_from is not None:
            state = checkpoint.read_state(resume_from)
            learner.load(resume_from)
            run.truncate_after(state["step"])
            checkpoint.set_aside(run.checkpoints, state["step"])
            session.rollouts.take(learner.publish(state["step"]))
            session.progress.note(f"resumed from {resume_from}")
        for step, get in played_steps(session, state["step"] + 1, cfg.train.steps):
            train_step(session, learner, step, get)
            state["step"] = step
            watched = due(step, cfg.train.eval_every)
            if watched:
                watch(session, step, state)
            if watched or step == cfg.train.steps or due(step, cfg.train.checkpoint_every):
                save(session, learner, step, state)
        weights = learner.publish(cfg.train.steps)
        if not session.draws:
            learner.close()
        after = measure(session, "after")
        if session.draws:
            learner.close()
        return finish(session, state, after, weights.checksum)


def start_learner(session: Session) -> LearnerPool:
    with session.progress.phase("start: learners"):
        train = session.cfg.train
        learner = session.cfg.learner
        return LearnerPool(
            session.cfg,
            session.placement,
            total_updates=train.steps * learner.optimizer_steps,
        )


def check_fits(cfg: Config, folder: Path) -> None:
    """ValueError, before any engine starts, if the checkpoint is of another architecture or beyond `train.steps`."""
    from transformers import AutoConfig

    from actors.optimizer import check_architecture

    check_architecture(AutoConfig.from_pretrained(resolve(cfg.policy.path)), folder / "policy")
    done = checkpoint.read_state(folder)["step"]
    if done > cfg.train.steps:
        raise ValueError(
            f"train.steps={cfg.train.steps}: checkpoint {folder} is of step {done}; give at least {done}"
        )


if __name__ == "__main__":
    run_job(train)
