"""Train a policy with GRPO.

    python -m ray_jobs.train revseg_tiny learner.lr=1e-4 rollout.workers=2

`train` measures the policy, runs the steps, measures again, and shows the gain. `train_step` is
one step from top to bottom.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.reward import Scoring
from actors.rollout import Played
from actors.splits import set_of, training_split
from configs.load import resolve
from configs.schema import Config
from core.grpo import judge
from core.types import End, Episode, Group
from data.mixing import Mix, Position, check_left
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.evaluation import evaluate, stop_on_failures
from ray_jobs.driver.fit import aside_line, too_long_for
from ray_jobs.driver.guard import Guard, lowest_reward
from ray_jobs.driver.hints import HintStore, own_hints
from ray_jobs.driver.masking import Masking, make_masking
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.report import Values, report, values_of
from ray_jobs.driver.requests import Stopped
from ray_jobs.driver.results import Evaluation, mean_parts, write_evaluation
from ray_jobs.driver.run import Run, checked_config, refuse_other_run
from ray_jobs.driver.sampling import Draws, mix_rows, training_mix
from ray_jobs.driver.stages import StageTimer
from ray_jobs.driver.truths import check_measurable
from ray_jobs.record import checkpoint


@dataclass(frozen=True)
class PlayedStep:
    """The played groups of one step, in the order of their prompts.

    Attributes:
        groups: One group for each of the P prompts.
        scorings: Scoring under way, one entry a group; None before a policy has drawn its masks.
        set_aside: Number of samples set aside so far.
    """

    groups: Sequence[Played]
    scorings: Sequence[Scoring | None]
    set_aside: int = 0


@dataclass
class TrainingState:
    """The part of a run in its checkpoints beside the learner's own state.

    Attributes:
        step: The last learned step.
        before: Values before training, "greedy" and "sampled"; empty if not measured.
        watched: J&F on the watched split, by step.
        start_seconds: Time until the rollout engines were up.
        used: Number of training samples drawn from each set so far; "" is the only set.
        aside: Training samples that cannot fit, each with the reason.
    """

    step: int = 0
    before: dict[str, Values] = field(default_factory=dict)
    watched: dict[str, float] = field(default_factory=dict)
    start_seconds: float = 0.0
    used: dict[str, int] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)

    @property
    def position(self) -> Position | None:
        """The position of the draws; None in a checkpoint of a release before data.sets."""
        if self.step > 0 and not self.used:
            return None
        return Position(self.used, self.aside)


def play(run: Run, pools: Pools, masking: Masking, draws: Draws, step: int) -> PlayedStep:
    """Play G episodes of each prompt of a step.

    Groups arrive in any order as they finish. Each is scored at once, while others still decode,
    unless the policy has to draw masks first. A sample without room for an answer is set aside.
    """
    cfg = run.cfg
    split = training_split(cfg)
    arrivals = pools.rollouts.play(
        draws.of_step(step),
        group_size=cfg.rollout.group_size,
        temperature=cfg.rollout.temperature,
        step=step,
        training=True,
    )
    groups: dict[int, Played] = {}
    scorings: dict[int, Scoring | None] = {}
    for group in arrivals:
        groups[group.index] = group
        scorings[group.index] = masking.score_early(split, group)

    # The order of arrival must not change the update.
    in_order = sorted(groups)
    too_long: dict[str, str] = {}
    for index in in_order:
        if groups[index].too_long:
            too_long[groups[index].sample.uid] = groups[index].episodes[0].error
    if too_long:
        draws.set_aside(step, too_long)
        run.progress.note(aside_line(too_long, f"samples of step {step}"))
    return PlayedStep(
        groups=[groups[index] for index in in_order],
        scorings=[scorings[index] for index in in_order],
        set_aside=len(draws.after(step).aside),
    )


def play_steps(
    run: Run, pools: Pools, masking: Masking, draws: Draws, first: int, last: int
) -> Iterator[PlayedStep]:
    """Play each step when it is asked for, with the newest weights: strictly on policy."""
    for step in range(first, last + 1):
        yield play(run, pools, masking, draws, step)


def play_ahead(
    run: Run, pools: Pools, masking: Masking, draws: Draws, first: int, last: int
) -> Iterator[PlayedStep]:
    """Play the next step in a thread while the last one is learned (`rollout.max_staleness=1`).

    Its weights are one update old, or change while it is played; truncated importance weights
    correct for this.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(play, run, pools, masking, draws, first)
        for step in range(first, last + 1):
            played = ahead.result()
            if step < last:
                ahead = thread.submit(play, run, pools, masking, draws, step + 1)
            yield played


def train_step(
    run: Run,
    pools: Pools,
    masking: Masking,
    step: int,
    played_steps: Iterator[PlayedStep],
    guard: Guard,
) -> dict[str, float]:
    """Run one GRPO step on P prompts; write its metrics to the run folder and return them.

    Raises:
        ValueError, RuntimeError: As `stop_on_failures` and `Guard`.
    """
    cfg = run.cfg
    timer = StageTimer(run.progress)

    # 1 play: G episodes of each prompt, by the rollout actors.
    with timer.stage("play"):
        played = next(played_steps)

    # 2 mask: masks that the policy draws itself; reward actors make those of a segmenter.
    drawn_P = masking.draw_step(played.groups, timer)

    # 3 score: a reward and its parts for each episode, by the reward actors.
    with timer.stage("score"):
        scorings = masking.score_step(training_split(cfg), played.groups, played.scorings, drawn_P)
        rewards_PG = [pools.rewards.collect(scoring) for scoring in scorings]

    # 4 judge: advantages relative to the group.
    groups = []
    for group, rewards_G in zip(played.groups, rewards_PG, strict=True):
        scored = Group(group.sample.uid, group.episodes, rewards_G)
        judged = judge(scored, std=cfg.grpo.advantage_std, eps=cfg.grpo.advantage_eps)
        groups.append(judged)
    stop_on_failures(all_episodes(groups), cfg.rollout.max_failed_share)

    # A half-learned step cannot be saved, so from here on it is finished.
    run.requests.be_patient()

    # 5 learn: whole groups; pixels go from the rollout actors to the learner by reference.
    targets = masking.targets(played.groups, drawn_P)
    media = [group.media_ref for group in played.groups]
    with timer.stage("learn"):
        update = pools.learner.learn(groups, media, targets)
    metrics = group_metrics(groups) | update.metrics
    metrics["set_aside"] = float(played.set_aside)
    if cfg.data.sets:
        metrics |= set_metrics(groups, [each.label for each in cfg.data.sets])
    metrics["loss"] = update.loss
    metrics["grad_norm"] = update.grad_norm
    guard.before_publishing(metrics)

    # 6 publish: the next step is played with the new weights.
    with timer.stage("publish"):
        pools.rollouts.take(pools.learner.publish(step))

    play_seconds = max(timer.seconds["play"], 1e-3)
    metrics["tokens_per_second"] = metrics["completion_tokens"] / play_seconds
    record_step(run, step, metrics, timer.seconds, groups)
    guard.after_step(metrics, groups)
    return metrics


def record_step(
    run: Run,
    step: int,
    metrics: dict[str, float],
    seconds: dict[str, float],
    groups: Sequence[Group],
) -> None:
    """Write a step to the run folder, then to the tracker and the display."""
    # The run folder comes first: it holds the truth if the tracker or the display fails.
    run.record.write_step(step, metrics, seconds)
    run.record.write_episodes(step, groups)
    timing = {f"seconds/{stage}": spent for stage, spent in seconds.items()}
    run.tracker.metrics(step, metrics | timing)
    run.progress.step(step, metrics, seconds)


def set_metrics(groups: Sequence[Group], labels: Sequence[str]) -> dict[str, float]:
    """Return each set's share of the prompts, and its mean reward where it has any."""
    metrics: dict[str, float] = {}
    for label in labels:
        own = [group for group in groups if set_of(group.sample_uid) == label]
        metrics[f"share/{label}"] = len(own) / len(groups)
        rewards = [reward for group in own for reward in group.rewards]
        totals = [reward.total for reward in rewards if reward is not None]
        if totals:
            metrics[f"reward_of/{label}"] = float(np.mean(totals))
    return metrics


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return reward and parts, lengths and ends, as means or counts over the episodes of a step."""
    ends = []
    turns = []
    tokens = 0
    too_long = 0
    for episode in all_episodes(groups):
        ends.append(episode.end)
        too_long += episode.too_long
        # Turns of a frozen helper are not the policy's.
        turns.append(sum(turn.trainable for turn in episode.turns))
        tokens += sum(len(turn.completion_ids) for turn in episode.turns)

    metrics = reward_metrics(groups)
    for end in End:
        metrics[f"end/{end.value}"] = ends.count(end) / len(ends)
    metrics["turns"] = float(np.mean(turns))
    metrics["completion_tokens"] = float(tokens)
    metrics["failed_episodes"] = float(ends.count(End.FAILED))
    metrics["too_long_episodes"] = float(too_long)
    metrics["zero_variance_groups"] = float(sum(not group.informative for group in groups))
    return metrics


def reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return the mean reward and its parts; without any reward the mean is no number."""
    totals = []
    parts = []
    for group in groups:
        for reward in group.rewards:
            # A failed episode has no reward.
            if reward is not None:
                totals.append(reward.total)
                parts.append(reward.parts)
    metrics = {"reward": float(np.mean(totals)) if totals else float("nan")}
    for name, mean in mean_parts(parts).items():
        metrics[f"reward/{name}"] = mean
    return metrics


def all_episodes(groups: Sequence[Group]) -> list[Episode]:
    """Return the episodes of all groups, in order."""
    episodes: list[Episode] = []
    for group in groups:
        episodes += group.episodes
    return episodes


def measure(run: Run, pools: Pools, masking: Masking, title: str) -> dict[str, Evaluation]:
    """Measure the test split: greedily, and sampled at temperature 1 with fixed seeds."""
    split = run.cfg.data.test_split
    repeats = run.cfg.train.sampled_repeats
    sampled = evaluate(
        run, pools, masking, split, f"{title}, sampled", temperature=1.0, repeats=repeats
    )
    greedy = evaluate(run, pools, masking, split, f"{title}, greedy")
    return {"greedy": greedy, "sampled": sampled}


def watch(run: Run, pools: Pools, masking: Masking, state: TrainingState) -> None:
    """Measure the watched split; the test split waits for the final table."""
    step = state.step
    split = run.cfg.data.eval_split
    evaluation = evaluate(run, pools, masking, split, f"step {step}, {split}")
    write_evaluation(run.record.evaluation_folder(step) / split, evaluation)
    jf = evaluation.mean("jf")
    reward = evaluation.mean("reward")
    # A string, because keys of JSON are strings.
    state.watched[str(step)] = jf
    run.tracker.metrics(step, {f"{split}/jf": jf, f"{split}/reward": reward})
    run.progress.note(f"step {step}, {split}: J&F {jf:.3f}")


def save(run: Run, pools: Pools, draws: Draws, state: TrainingState) -> None:
    """Write a checkpoint and point `best` at the best one.

    The best one has the highest J&F on the watched split; without watching it is the newest one.
    """
    step = state.step
    position = draws.after(step)
    state.used = dict(position.used)
    state.aside = dict(position.aside)
    checkpoints = run.record.checkpoints
    with run.requests.patient(), run.progress.phase(f"checkpoint step_{step}"):
        folder = checkpoint.save(checkpoints, step, pools.learner.save, asdict(state))
    watched = state.watched
    best = not watched or watched.get(str(step)) == max(watched.values())
    if best:
        run.record.mark_best(folder)
    checkpoint.prune(checkpoints, run.cfg.train.keep_checkpoints)


def resume(run: Run, pools: Pools, folder: Path) -> TrainingState:
    """Restore learner, rollout actors and run folder from a checkpoint."""
    kept = checkpoint.read_state(folder)
    state = TrainingState(**kept)
    pools.learner.load(folder)
    run.record.truncate_after(state.step)
    checkpoint.set_aside(run.record.checkpoints, state.step)
    pools.rollouts.take(pools.learner.publish(state.step))
    run.progress.note(f"resumed from {folder}")
    return state


def measure_before(run: Run, pools: Pools, masking: Masking) -> dict[str, Values]:
    """Measure the initial policy, if `train.eval_before` is set."""
    if not run.cfg.train.eval_before:
        return {}
    values = {}
    for how, evaluation in measure(run, pools, masking, "before").items():
        values[how] = values_of(evaluation)
        write_evaluation(run.record.evaluation_folder(0) / how, evaluation)
    return values


def due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def train(argv: Sequence[str]) -> dict[str, Any]:
    """Train as configured; return the contents of summary.json.

    Raises:
        ValueError: An impossible setting or file; before any engine starts.
    """
    began = time.monotonic()
    cfg = checked_config(argv)
    refuse_choosing_on_the_test_split(cfg)
    fresh = cfg.train.resume == "never"
    if not fresh:
        refuse_other_run(Path(cfg.runs) / cfg.name, cfg)

    splits = splits_to_read(cfg)
    with (
        Run.open(cfg, splits=splits, fresh=fresh, total_steps=cfg.train.steps) as run,
        Pools(run, reward_splits=splits) as pools,
    ):
        mix, aside = training_data(run)
        # Errors of a checkpoint come before the engines, which take a while to start.
        checkpoints = run.record.checkpoints
        resumed = checkpoint.find(checkpoints, cfg.train.resume)
        if resumed is not None:
            check_fits(cfg, resumed)
        rollouts = pools.rollouts
        start_seconds = time.monotonic() - began
        masking = make_masking(cfg, pools, training=True)

        # The rollout actors still hold the initial policy, whose hints all evaluations share.
        measured_splits = [cfg.data.test_split]
        if cfg.train.eval_every:
            measured_splits.append(cfg.data.eval_split)
        hints = HintStore(run, own_hints(cfg, run.record.path))
        hints.ask(measured_splits, rollouts, again=resumed is None)

        if resumed is None:
            # Lines of a run that was killed before its first checkpoint.
            run.record.truncate_after(0)
            before = measure_before(run, pools, masking)
            state = TrainingState(before=before, start_seconds=start_seconds)
        else:
            state = resume(run, pools, resumed)

        draws = Draws(mix, cfg.rollout.prompts_per_step, state.step, state.position)
        draws.set_aside(state.step, aside)

        # Playing ahead begins with the first step, and the learner takes a while to start.
        learner = pools.learner
        play_all = play_ahead if cfg.rollout.max_staleness else play_steps
        played = play_all(run, pools, masking, draws, state.step + 1, cfg.train.steps)
        guard = Guard(cfg, checkpoints, floor=lowest_reward(run.record.episodes()))
        try:
            # A stop during an evaluation leaves it to the next start.
            if due(state.step, cfg.train.eval_every) and str(state.step) not in state.watched:
                watch(run, pools, masking, state)
                save(run, pools, draws, state)
            for step in range(state.step + 1, cfg.train.steps + 1):
                run.requests.wait_while_paused()
                with run.requests.patient(cfg.train.stop_s):
                    train_step(run, pools, masking, step, played, guard)
                    run.record.write_aside(draws.after(step).aside)
                    state.step = step
                watched = due(step, cfg.train.eval_every)
                if watched:
                    watch(run, pools, masking, state)
                asked = run.requests.take_checkpoint()
                last = step == cfg.train.steps
                if watched or last or asked or due(step, cfg.train.checkpoint_every):
                    save(run, pools, draws, state)
        except Stopped:
            is_saved = (checkpoints / f"step_{state.step}").exists()
            if state.step > 0 and not is_saved:
                save(run, pools, draws, state)
            raise

        # The checksum of the final weights; the rollout actors hold them since the last step.
        weights = learner.publish(cfg.train.steps)
        masking.finish_learning()
        after = measure(run, pools, masking, "after")
        pools.close_learner()
        return report(run, state.before, after, state.start_seconds, weights.checksum)


def training_data(run: Run) -> tuple[Mix, dict[str, str]]:
    """Return the training samples, and those that cannot fit, each with the reason.

    Raises:
        ValueError: A set without any sample that fits, or a watched split that nothing can be
            measured on.
    """
    cfg = run.cfg
    if cfg.train.eval_every:
        watched = cfg.data.eval_split
        check_measurable(run.split(watched), f"data.eval_split={watched}")
    samples = run.split(training_split(cfg))
    mix = training_mix(cfg, samples)
    aside = too_long_for(run, samples)
    check_left(mix, aside)
    run.record.write_aside(aside)
    if cfg.data.sets:
        draws = cfg.train.steps * cfg.rollout.prompts_per_step
        run.progress.table("training data", mix_rows(mix, draws))
    return mix, aside


def splits_to_read(cfg: Config) -> list[str]:
    """Return the splits of driver and reward actors: training, test, and the watched one."""
    data = cfg.data
    splits = [training_split(cfg), data.test_split]
    if cfg.train.eval_every:
        splits.append(data.eval_split)
    return splits


def refuse_choosing_on_the_test_split(cfg: Config) -> None:
    """Refuse to choose `best` on the split that is reported.

    Raises:
        ValueError: the watched split is the test split.
    """
    data = cfg.data
    if cfg.train.eval_every and data.eval_split == data.test_split:
        raise ValueError(
            f"data.eval_split={data.eval_split}: is data.test_split as well, so `best` would be "
            "chosen on the reported split; watch another labelled split, or held-out training "
            "videos (data.eval_split=holdout data.holdout=0.02), or nothing (train.eval_every=0)"
        )


def check_fits(cfg: Config, folder: Path) -> None:
    """Refuse a checkpoint of another policy or beyond `train.steps`.

    Raises:
        ValueError: Another architecture, or a later step.
    """
    # Both take seconds to import, and only a resumed run needs them.
    from transformers import AutoConfig

    from actors.architecture import check_architecture

    check_architecture(AutoConfig.from_pretrained(resolve(cfg.policy.path)), folder / "policy")
    step = checkpoint.read_state(folder)["step"]
    if step > cfg.train.steps:
        raise ValueError(
            f"train.steps={cfg.train.steps}: checkpoint {folder} is of step {step}; "
            f"give at least {step}"
        )


if __name__ == "__main__":
    run_job(train)
