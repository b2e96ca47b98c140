"""Train a policy with GRPO.

    python -m ray_jobs.train revseg_tiny learner.lr=1e-4 rollout.workers=2
    python -m ray_jobs.train revseg_tiny --profile 5       # a Chrome trace of step 5

`train` measures the policy, runs the steps, measures again, and shows the gain. `train_step` is
one step from top to bottom.
"""

from __future__ import annotations

from ray_jobs.driver import supervisor

if __name__ == "__main__":
    # The parent goes no further: all imports below are the child's.
    supervisor.supervise()

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.learner_pool import LearnerLost
from actors.reward import GroupRewards
from actors.rollout import Played
from actors.splits import set_of, training_split
from cluster.weight_reader import sha256
from configs.load import resolve
from configs.schema import Config, GrpoConfig
from core.collector import spare_collector
from core.grpo import judge, shape_overlong
from core.types import End, Episode, Group
from data.mixing import Mix, Position, check_left
from ray_jobs.driver import balance, watching
from ray_jobs.driver.beside import Beside
from ray_jobs.driver.control import controlled
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.evaluation import evaluate, stop_on_failures
from ray_jobs.driver.fit import too_long_for
from ray_jobs.driver.guard import Guard, lowest_reward
from ray_jobs.driver.hints import HintStore, own_hints
from ray_jobs.driver.live import figures_shown, memory_metrics, told_live
from ray_jobs.driver.live_server import live_page
from ray_jobs.driver.masking import Masking, make_masking
from ray_jobs.driver.player import Arrival, Player
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.profile import profiled, with_profile
from ray_jobs.driver.rebuilds import Rebuilds, history_of, newest_start, origin_of, step_of
from ray_jobs.driver.recording import Recording
from ray_jobs.driver.report import Values, report, values_of
from ray_jobs.driver.requests import Stopped
from ray_jobs.driver.results import Evaluation, mean_parts
from ray_jobs.driver.run import Run, checked_config, folder_of, refuse_other_run
from ray_jobs.driver.sampling import Draws, mix_rows, training_mix
from ray_jobs.driver.stages import StageTimer
from ray_jobs.driver.truths import check_measurable
from ray_jobs.record import checkpoint
from ray_jobs.record.group_log import GroupLog

# Checkpoints that a start has evaluated again, beside training: the newest ones.
WANTED = 2


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
        origin: Name of the weights that the run began with (`origin_of`).
    """

    step: int = 0
    before: dict[str, Values] = field(default_factory=dict)
    watched: dict[str, float] = field(default_factory=dict)
    start_seconds: float = 0.0
    used: dict[str, int] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    origin: str = ""

    @property
    def position(self) -> Position | None:
        """The position of the draws; None in a checkpoint of a release before data.sets."""
        if self.step > 0 and not self.used:
            return None
        return Position(self.used, self.aside)


def train_step(
    run: Run,
    pools: Pools,
    masking: Masking,
    step: int,
    player: Player,
    log: GroupLog,
    recording: Recording,
    guard: Guard,
) -> None:
    """Run one GRPO step on P prompts; record it, unless it was on record before a death.

    The stages overlap: engines play all groups, and each goes through the others as it comes.

    Raises:
        ValueError, RuntimeError: As `stop_on_failures` and `Guard`.
        LearnerLost: A rank of the learner died.
    """
    cfg = run.cfg
    timer = StageTimer(run.progress)
    batch = pools.learner.begin(newest=step - 1)
    judged: dict[int, Group] = {}
    learned: list[int] = []

    # 1 play: G episodes of each prompt, by the rollout actors.
    player.begin(step)
    for arrived in portions(player, step, masking.portion, timer):
        played = [arrival.group for arrival in arrived]
        early = [arrival.scoring for arrival in arrived]

        # 2 mask: masks that the policy draws itself; reward actors make those of a segmenter.
        drawn = masking.draw_step(played, timer)

        # 3 score: a reward and its parts for each episode, by the reward actors.
        with timer.stage("score"):
            scorings = masking.score_step(training_split(cfg), played, early, drawn)
            rewards = [pools.rewards.collect(scoring) for scoring in scorings]

        # 4 judge: advantages relative to the group. Groups without any may be replaced.
        new = judge_groups(played, rewards, cfg.grpo)
        judged |= new
        kept = []
        for number, group in enumerate(played):
            if new[group.index].informative or not player.replace(step):
                kept.append(number)

        # 5 learn: gradients are added up, group by group. Pixels do not travel: the ranks read the
        # frames of the videos out of the store of their node.
        useful = [played[number] for number in kept]
        targets = masking.targets(useful, [drawn[number] for number in kept])
        videos = [group.sample.video for group in useful]
        learned += [group.index for group in useful]
        with timer.stage("learn"):
            batch.add([new[group.index] for group in useful], videos, targets)

    # The order of arrival does not matter from here on.
    groups = [judged[index] for index in sorted(judged)]
    try:
        stop_on_failures(all_episodes(groups), cfg.rollout.max_failed_share)
    except (ValueError, RuntimeError):
        # Another start plays them again: the cause may be gone by then.
        log.drop(step)
        raise

    # A half-learned step cannot be saved, so from here on it is finished.
    run.requests.be_patient()
    with timer.stage("learn"):
        update = batch.finish()
    judged |= with_entropies(judged, learned, update.entropies)
    groups = [judged[index] for index in sorted(judged)]
    play = player.play_of(step)
    metrics = group_metrics(groups) | update.metrics
    metrics["set_aside"] = float(play.set_aside)
    metrics["replaced_groups"] = float(len(groups) - cfg.rollout.prompts_per_step)
    if cfg.data.sets:
        metrics |= set_metrics(groups, [each.label for each in cfg.data.sets])
    metrics["loss"] = update.loss
    metrics["grad_norm"] = update.grad_norm
    guard.before_publishing(metrics)

    # 6 publish: the next step is played with the new weights.
    with timer.stage("publish"):
        # After a death the rollout actors keep newer weights until the learner has caught up.
        if step >= pools.rollouts.version:
            pools.rollouts.take(pools.learner.publish(step))

    if not play.logged:
        measured = balance.of_step(play.seconds, play.engines, update.seconds, timer.seconds)
        metrics |= measured.metrics
        metrics["tokens_per_second"] = metrics["completion_tokens"] / max(play.seconds, 1e-3)
    metrics |= memory_metrics(run.placement.watch)
    recording.write(step, metrics, timer.seconds, groups)
    guard.after_step(metrics, groups)


def portions(player: Player, step: int, size: int, timer: StageTimer) -> Iterator[list[Arrival]]:
    """Yield the groups of a step by so many; the time that they are waited for is that of play."""
    while True:
        with timer.stage("play"):
            portion = player.take(step, size)
        if not portion:
            return
        yield portion


def judge_groups(
    played: Sequence[Played], rewards: Sequence[GroupRewards], cfg: GrpoConfig
) -> dict[int, Group]:
    """Return groups with their advantages, by the index of their prompts."""
    judged: dict[int, Group] = {}
    for group, rewards_G in zip(played, rewards, strict=True):
        scored = Group(group.sample.uid, group.episodes, rewards_G)
        if cfg.overlong_tokens:
            scored = shape_overlong(scored, cfg.overlong_tokens, cfg.overlong_cache)
        judged[group.index] = judge(scored, std=cfg.advantage_std, eps=cfg.advantage_eps)
    return judged


def with_entropies(
    judged: Mapping[int, Group], learned: Sequence[int], entropies: Mapping[int, np.ndarray]
) -> dict[int, Group]:
    """Return the learned groups with the entropies of their tokens, by the index of their prompts.

    Args:
        judged: all groups of the step.
        learned: indices of those in the batch, in its order.
        entropies: as `Update.entropies`.
    """
    found: dict[int, Group] = {}
    first = 0
    for index in learned:
        group = judged[index]
        numbers = range(first, first + len(group.episodes))
        entropies_G = tuple(entropies.get(number) for number in numbers)
        found[index] = replace(group, entropies_G=entropies_G)
        first = numbers.stop
    return found


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
    metrics["tokens_per_episode"] = tokens / len(ends)
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


def measure(
    run: Run, pools: Pools, masking: Masking, title: str, then: str
) -> dict[str, Evaluation]:
    """Measure the test split: greedily, and sampled at temperature 1 with fixed seeds.

    Args:
        then: What comes after it, for the display.
    """
    split = run.cfg.data.test_split
    sampled = evaluate(
        run,
        pools,
        masking,
        split,
        f"{title}, sampled",
        temperature=1.0,
        repeats=run.cfg.train.sampled_repeats,
        then=f"greedy, then {then}",
    )
    greedy = evaluate(run, pools, masking, split, f"{title}, greedy", then=then)
    return {"greedy": greedy, "sampled": sampled}


def watch_if_due(
    run: Run, pools: Pools, masking: Masking, state: TrainingState, again: bool
) -> bool:
    """Measure the watched split after a step, if that is due; the test split waits for the end.

    Beside training that begins with the whole checkpoint of the step (`save`), but no step would
    wait for the evaluation of the last one.

    Args:
        again: The step was learned before a death, and may have been measured as well.

    Returns:
        Whether it is due.
    """
    step = state.step
    if not due(step, run.cfg.train.eval_every):
        return False
    if not again:
        watching.forget(run, step)
    means = watching.written(run, step)
    # A string, because keys of JSON are strings.
    if means is not None:
        state.watched[str(step)] = watching.show(run, step, means)
    elif pools.beside is None or step == run.cfg.train.steps:
        state.watched[str(step)] = watching.watch(run, pools, masking, step)
    return True


def watch_missing(
    run: Run, pools: Pools, masking: Masking, log: GroupLog, draws: Draws, state: TrainingState
) -> None:
    """Measure what a death or a stop has left unmeasured."""
    step = state.step
    own = run.record.checkpoints / f"step_{step}"
    # A run may have begun with a checkpoint of another one.
    is_own = own.is_dir() and checkpoint.read_state(own).get("origin") == state.origin
    in_place = pools.beside is None or not is_own or step == run.cfg.train.steps
    if in_place and due(step, run.cfg.train.eval_every) and str(step) not in state.watched:
        state.watched[str(step)] = watching.watch(run, pools, masking, step)
        save(run, pools, log, draws, state)
    if pools.beside is not None and is_own:
        want_missing(run, pools, pools.beside, log, state)


def want_missing(
    run: Run, pools: Pools, beside: Beside, log: GroupLog, state: TrainingState
) -> None:
    """Have the newest checkpoints without an evaluation measured beside training."""
    steps = range(1, state.step + 1)
    every = run.cfg.train.eval_every
    missing = [step for step in steps if due(step, every) and str(step) not in state.watched]
    for step in missing[-WANTED:]:
        folder = run.record.checkpoints / f"step_{step}"
        means = watching.written(run, step)
        if means is not None:
            # It ended after the last checkpoint, which does not know it.
            note_watched(run, pools, log, state, folder, watching.show(run, step, means))
        elif folder.is_dir():
            beside.want(step, folder)


def take_watched(run: Run, pools: Pools, log: GroupLog, state: TrainingState) -> None:
    """Take the figures of the evaluations beside training that have ended; at the end of all."""
    if pools.beside is None:
        return
    if state.step == run.cfg.train.steps:
        # The checkpoint on its way may be one to measure.
        pools.saving.finish(pools.learner)
        if pools.beside.steps:
            with run.progress.phase("evaluations beside training"):
                pools.beside.finish()
    for folder, jf in watching.take_done(run, pools.beside).items():
        note_watched(run, pools, log, state, folder, jf)


def note_watched(
    run: Run, pools: Pools, log: GroupLog, state: TrainingState, folder: Path, jf: float
) -> None:
    """Note the J&F of a checkpoint that was measured after it was written."""
    step = folder.name.removeprefix("step_")
    state.watched[step] = jf
    if folder.is_dir():
        note_checkpoint(run, pools, log, folder, is_best=best_of(state.watched) == step)


def best_of(watched: Mapping[str, float]) -> str:
    """Return the step with the highest J&F on the watched split, the newest one of several."""
    return max(watched, key=lambda step: (watched[step], int(step)))


def save(run: Run, pools: Pools, log: GroupLog, draws: Draws, state: TrainingState) -> None:
    """Start a checkpoint, or write it at once without `train.checkpoint_beside`."""
    step = state.step
    position = draws.after(step)
    state.used = dict(position.used)
    state.aside = dict(position.aside)
    kept = asdict(state)
    watched = state.watched
    is_best = not watched or best_of(watched) == str(step)

    def note_whole(folder: Path) -> None:
        is_due = due(step, run.cfg.train.eval_every)
        if pools.beside is not None and is_due and str(step) not in watched:
            pools.beside.want(step, folder)
        note_checkpoint(run, pools, log, folder, is_best)

    with run.requests.patient(), run.progress.phase(f"checkpoint step_{step}"):
        if run.cfg.train.checkpoint_beside:
            pools.saving.start(pools.learner, step, kept, note_whole)
        else:
            checkpoints = run.record.checkpoints
            note_whole(checkpoint.save(checkpoints, step, pools.learner.save, kept))


def note_checkpoint(run: Run, pools: Pools, log: GroupLog, folder: Path, is_best: bool) -> None:
    """Point `best` at a whole checkpoint if it is the best one, and remove what it makes needless.

    The best one has the highest J&F on the watched split; without watching it is the newest one.
    """
    if is_best:
        run.record.mark_best(folder)
        run.tracker.model(run.record.path / "best" / "policy", step_of(folder))
    checkpoints = run.record.checkpoints
    keep = run.cfg.train.keep_checkpoints
    in_use = pools.beside.steps if pools.beside is not None else ()
    checkpoint.prune(checkpoints, keep, in_use)
    log.forget(checkpoint.oldest(checkpoints, keep))


def checkpoint_to_resume(cfg: Config, checkpoints: Path) -> Path | None:
    """Return the checkpoint to go on from, or None to start anew.

    A restart by the parent prefers the run's own newer checkpoints to that of `train.resume`.

    Raises:
        ValueError: As `checkpoint.find`.
    """
    how = cfg.train.resume
    if not supervisor.is_again():
        return checkpoint.find(checkpoints, how)
    if how in ("auto", "never"):
        return checkpoint.find(checkpoints, "auto")
    return newest_start(checkpoints, resolve(how))


def measure_before(run: Run, pools: Pools, masking: Masking) -> dict[str, Values]:
    """Measure the initial policy, if `train.eval_before` is set."""
    if not run.cfg.train.eval_before:
        return {}
    values = {}
    then = f"steps 1 to {run.cfg.train.steps}"
    for how, evaluation in measure(run, pools, masking, "before", then).items():
        values[how] = values_of(evaluation)
        run.keeping.evaluation(0, how, evaluation)
    return values


def plan_of(cfg: Config, start: Path | None) -> str:
    """Return what the run will do, in one line.

    Args:
        start: The checkpoint to go on from; None begins anew.
    """
    done = 0 if start is None else step_of(start)
    episodes = cfg.rollout.prompts_per_step * cfg.rollout.group_size
    answers = cfg.train.eval_samples * (1 + cfg.train.sampled_repeats)
    measured = f"measure the policy (up to {answers} answers)"
    words = [f"steps {done + 1} to {cfg.train.steps} of {episodes} episodes", f"{measured} again"]
    if start is None and cfg.train.eval_before:
        words.insert(0, measured)
    return f"plan: start the engines, then {', then '.join(words)}"


def due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def train(argv: Sequence[str]) -> dict[str, Any]:
    """Train as configured; return the contents of summary.json.

    Raises:
        ValueError: An impossible setting or file; before any engine starts.
    """
    began = time.monotonic()
    cfg = checked_config(with_profile(argv))
    supervisor.tell(f"max_restarts {cfg.cluster.max_restarts}")
    supervisor.show_life(cfg.cluster.hang_s)
    refuse_choosing_on_the_test_split(cfg)
    # A restart by the parent goes on with what the first start has begun.
    fresh = cfg.train.resume == "never" and not supervisor.is_again()
    if not fresh:
        refuse_other_run(Path(cfg.runs) / cfg.name, cfg)

    splits = splits_to_read(cfg)
    with (
        live_page(folder_of(cfg, ""), cfg.record.port),
        Run.open(cfg, splits=splits, fresh=fresh, total_steps=cfg.train.steps) as run,
        Pools(run, reward_splits=splits, learns=True) as pools,
        controlled(run.record, run.requests, pools.elastic),
        told_live(run.record.path, run.progress, run.placement.watch),
        figures_shown(cfg, run.progress) as figures,
    ):
        mix, aside = training_data(run)
        # Errors of a checkpoint come before the engines, which take a while to start.
        checkpoints = run.record.checkpoints
        start = checkpoint_to_resume(cfg, checkpoints)
        if start is not None:
            check_fits(cfg, start)
        origin = origin_of(cfg, checkpoints, start)
        history = history_of(cfg, origin)
        run.progress.note(plan_of(cfg, start))
        log = GroupLog.open(run.record.path / "groups", history, run.progress.note)
        rollouts = pools.rollouts
        initial = TrainingState(start_seconds=time.monotonic() - began, origin=origin)
        masking = make_masking(cfg, pools, training=True)

        # The rollout actors still hold the initial policy, whose hints all evaluations share.
        measured_splits = [cfg.data.test_split]
        if cfg.train.eval_every:
            measured_splits.append(cfg.data.eval_split)
        hints = HintStore(run, own_hints(cfg, run.record.path))
        hints.ask(measured_splits, rollouts, again=start is None)
        pools.beside = watching.evaluations_beside(run)

        deaths = run.placement.watch.deaths
        recording = Recording.open(
            run.record, run.tracker, run.progress, deaths, run.keeping, figures
        )
        return train_through_deaths(
            run, pools, masking, log, recording, (mix, aside), start, initial
        )


def train_through_deaths(
    run: Run,
    pools: Pools,
    masking: Masking,
    log: GroupLog,
    recording: Recording,
    data: tuple[Mix, dict[str, str]],
    start: Path | None,
    initial: TrainingState,
) -> dict[str, Any]:
    """Train from a checkpoint, or from the initial policy; return the contents of summary.json.

    Starting the driver again and starting a dead learner anew are one path: load a checkpoint, and
    learn the steps since then from the group log.

    Args:
        data: As `training_data`.
    """
    mix, aside = data
    rebuilds = Rebuilds(run.cfg.cluster, run.record)
    while True:
        try:
            if start is None and not initial.before:
                initial.before = measure_before(run, pools, masking)
            state = starting_state(run, pools, start, initial)
            draws = draws_from(run.cfg, mix, state)
            draws.set_aside(state.step, aside)
            learn_steps(run, pools, masking, log, recording, draws, state)
            return finish(run, pools, masking, state)
        except LearnerLost as lost:
            pools.drop_learner()
            stop = run.requests.stop
            if stop is not None:
                # There may be no time left, and another start does the same.
                raise Stopped(stop.reason, stop.code) from lost
            start = newest_start(run.record.checkpoints, start)
            then = rebuilds.allow(lost, start)
            recording.deaths.add("learner", lost.who, lost.why, then)


def draws_from(cfg: Config, mix: Mix, state: TrainingState) -> Draws:
    """Return the draws behind a state."""
    rollout = cfg.rollout
    ahead = rollout.max_staleness
    return Draws(mix, rollout.prompts_per_step, state.step, state.position, ahead)


def starting_state(
    run: Run, pools: Pools, start: Path | None, initial: TrainingState
) -> TrainingState:
    """Bring the learner to a checkpoint, or to the initial policy; return the state there."""
    # Starts the ranks. Playing ahead begins with the first step, and this takes a while.
    learner = pools.learner
    if start is None:
        return copy.deepcopy(initial)
    learner.load(start)
    state = replace(TrainingState(**checkpoint.read_state(start)), origin=initial.origin)
    checkpoint.set_aside(run.record.checkpoints, state.step)
    run.progress.note(f"resumed from {start}")
    # After a death of the learner alone the rollout actors hold newer weights, and keep them. Those
    # of this very step are published again: others that join may need what died with a node.
    if pools.rollouts.version <= state.step:
        pools.rollouts.take(pools.learner.publish(state.step))
    return state


def learn_steps(
    run: Run,
    pools: Pools,
    masking: Masking,
    log: GroupLog,
    recording: Recording,
    draws: Draws,
    state: TrainingState,
) -> None:
    """Learn all steps behind a state, with evaluations and checkpoints in between."""
    cfg = run.cfg
    supervisor.tell("opened")
    checkpoints = run.record.checkpoints
    steps = range(state.step + 1, cfg.train.steps + 1)
    player = Player(run, pools, masking, log, draws, recording, steps.start, steps.stop - 1)
    floor = lowest_reward(run.record.episodes(), through=state.step)
    guard = Guard(cfg, checkpoints, floor=floor)
    spare_collector()
    try:
        watch_missing(run, pools, masking, log, draws, state)
        for step in steps:
            while run.requests.wait_while_paused():
                save_unsaved(run, pools, log, draws, state)
            with run.requests.patient(cfg.train.stop_s), profiled(run, step):
                train_step(run, pools, masking, step, player, log, recording, guard)
                run.record.write_aside(draws.after(step).aside)
                state.step = step
            if not recording.is_repeat:
                supervisor.tell(f"step {step}")
            end_step(run, pools, masking, log, recording, draws, state)
        take_watched(run, pools, log, state)
    except SystemExit:
        # A stop.
        if pools.beside is not None:
            pools.beside.close()
        save_unsaved(run, pools, log, draws, state)
        raise
    except LearnerLost:
        # The groups under way reach the log before it is read again.
        if run.requests.stop is None:
            player.finish()
        raise
    finally:
        player.leave()


def save_unsaved(run: Run, pools: Pools, log: GroupLog, draws: Draws, state: TrainingState) -> None:
    """Wait for the checkpoint on its way, then write one of the last learned step if it has none.

    Raises:
        RuntimeError: It cannot be written.
    """
    checkpoints = run.record.checkpoints
    own = checkpoints / f"step_{state.step}"
    with run.requests.patient():
        pools.saving.finish(pools.learner)
        if state.step > 0 and not own.exists():
            save(run, pools, log, draws, state)
            pools.saving.finish(pools.learner)
    if state.step > 0 and not own.exists():
        raise RuntimeError(f"{own} could not be written: look at its disk, then start again")


def end_step(
    run: Run,
    pools: Pools,
    masking: Masking,
    log: GroupLog,
    recording: Recording,
    draws: Draws,
    state: TrainingState,
) -> None:
    """Measure the watched split and write a checkpoint after a step, if they are due.

    Evaluations beside training are waited for at the end of the last step only.
    """
    cfg = run.cfg.train
    pools.saving.settle()
    watched = watch_if_due(run, pools, masking, state, again=recording.is_repeat)
    take_watched(run, pools, log, state)
    asked = run.requests.take_checkpoint()
    last = state.step == cfg.steps
    if watched or last or asked or due(state.step, cfg.checkpoint_every):
        save(run, pools, log, draws, state)
    if last:
        save_unsaved(run, pools, log, draws, state)


def finish(run: Run, pools: Pools, masking: Masking, state: TrainingState) -> dict[str, Any]:
    """Measure the trained policy and report; return the contents of summary.json."""
    # The checksum of the final weights; the rollout actors hold them since the last step.
    weights = pools.learner.publish(run.cfg.train.steps)
    masking.finish_learning()
    after = measure(run, pools, masking, "after", "the table and overlays")
    pools.close_learner()
    measured = balance.of_steps(run.record.steps())
    if measured is not None:
        run.progress.note(str(measured))
    return report(run, state.before, after, state.start_seconds, sha256(weights))


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
    step = step_of(folder)
    if step > cfg.train.steps:
        raise ValueError(
            f"train.steps={cfg.train.steps}: checkpoint {folder} is of step {step}; "
            f"give at least {step}"
        )


if __name__ == "__main__":
    run_job(train)
