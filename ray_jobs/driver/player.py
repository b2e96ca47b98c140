"""The playing of a run's groups, in a thread, while the loop learns from those that have come.

    player = Player(run, pools, masking, log, draws, recording, first=1, last=100)
    for arrival in player.groups(1):
        ...
    play = player.play_of(1)

The engines get one stream of groups, those of a step after those of the step before, and do not
wait for a step to end. Weights bound it: a group of step s is handed out when the weights of step
s - 1 - `rollout.max_staleness` are there, so none is older when it is learned. With 0 all are
strictly on policy.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.reward import Scoring
from actors.rollout import GroupTask, Played
from actors.shown_again import decode_again
from actors.splits import training_split
from core.types import Episode, Sample
from ray_jobs.driver.fit import aside_line
from ray_jobs.driver.masking import Masking
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.recording import Recording
from ray_jobs.driver.run import Run
from ray_jobs.driver.sampling import Draws
from ray_jobs.record.group_log import GroupLog

# Seconds that the end of a run waits for the thread; it is let go then.
LEAVE_S = 2.0


@dataclass(frozen=True)
class Arrival:
    """A played group.

    Attributes:
        scoring: Its scoring under way; None before the policy has drawn its masks.
    """

    group: Played
    scoring: Scoring | None


@dataclass(frozen=True)
class StepPlay:
    """The playing between one step and the next.

    Attributes:
        logged: Number of groups from the group log, which were played before a death.
        set_aside: Number of samples set aside so far.
        seconds: Time in which the engines had groups to play.
        engines: Rollout engines that are up.
    """

    logged: int
    set_aside: int
    seconds: float
    engines: int


@dataclass(frozen=True)
class StepPlan:
    """What is to be played in a step.

    Attributes:
        samples: Its prompts.
        logged: Groups of the group log, by the index of their prompts.
    """

    samples: Sequence[Sample]
    logged: Mapping[int, tuple[Episode, ...]]

    @property
    def is_logged(self) -> bool:
        """Whether nothing is left to play."""
        return len(self.logged) == len(self.samples)


class BusyClock:
    """The time in which at least one group is under way."""

    def __init__(self) -> None:
        self.under_way = 0
        self._since = 0.0
        self._spent = 0.0

    def begin(self) -> None:
        """Note a group that is handed out."""
        if self.under_way == 0:
            self._since = time.monotonic()
        self.under_way += 1

    def end(self) -> None:
        """Note a group that has come."""
        self.under_way -= 1
        if self.under_way == 0:
            self._spent += time.monotonic() - self._since

    def take(self) -> float:
        """Return the seconds since the last call."""
        now = time.monotonic()
        if self.under_way:
            self._spent += now - self._since
            self._since = now
        spent = self._spent
        self._spent = 0.0
        return spent


class Player:
    """The playing of all steps of a run, one after another."""

    def __init__(
        self,
        run: Run,
        pools: Pools,
        masking: Masking,
        log: GroupLog,
        draws: Draws,
        recording: Recording,
        first: int,
        last: int,
    ) -> None:
        """Start the thread. Nothing is played before a step is asked for."""
        self.run = run
        self.pools = pools
        self.masking = masking
        self.log = log
        self.draws = draws
        self.recording = recording
        self.staleness = run.cfg.rollout.max_staleness
        # Steps that are being played.
        self._plans: dict[int, StepPlan] = {}
        self._drawn = first - 1
        # All below is guarded by the condition.
        self._changed = threading.Condition()
        self._arrived: dict[int, deque[Arrival]] = defaultdict(deque)
        self._clock = BusyClock()
        self._allowed = first - 1
        self._is_closed = False
        self._is_left = False
        self._error: BaseException | None = None
        # It must not keep a process alive that ends.
        self._thread = threading.Thread(target=self._play_all, args=(first, last), daemon=True)
        self._thread.start()

    def groups(self, step: int) -> Iterator[Arrival]:
        """Yield the P groups of a step; let the thread play the steps that its weights allow.

        Steps are asked for in ascending order, when the step before is published. Groups come in
        the order of their prompts, or as they finish (`rollout.order`).

        Raises:
            Errors of the thread.
        """
        if self.staleness == 0:
            self._bring_weights(step)
        with self._changed:
            self._allowed = step + self.staleness
        prompts = range(self.run.cfg.rollout.prompts_per_step)
        if self.run.cfg.rollout.order == "arrival":
            for _ in prompts:
                yield self._next(step)
            return

        # Those that finished before the ones in front of them.
        early: dict[int, Arrival] = {}
        for index in prompts:
            while index not in early:
                arrival = self._next(step)
                early[arrival.group.index] = arrival
            yield early.pop(index)

    def play_of(self, step: int) -> StepPlay:
        """Return how the engines played since the step before; after the groups of this step."""
        with self._changed:
            self._arrived.pop(step)
            seconds = self._clock.take()
        plan = self._plans.pop(step)
        return StepPlay(
            logged=len(plan.logged),
            set_aside=len(self.draws.after(self._drawn).aside),
            seconds=seconds,
            engines=len(self.pools.rollouts.up()),
        )

    def finish(self) -> None:
        """Let the groups under way reach the log, and end."""
        with self._changed:
            self._is_closed = True
        self._thread.join()

    def leave(self) -> None:
        """End after the next group."""
        with self._changed:
            self._is_closed = True
            self._is_left = True
        self._thread.join(LEAVE_S)

    def _next(self, step: int) -> Arrival:
        """Wait for the next group of a step."""
        with self._changed:
            arrived = self._arrived[step]
            self._changed.wait_for(lambda: arrived or self._error is not None)
            if not arrived:
                assert self._error is not None, "nothing else ends the wait"
                raise self._error
            return arrived.popleft()

    def _play_all(self, first: int, last: int) -> None:
        """Play all steps; in the thread."""
        try:
            tasks = self._tasks(first, last)
            group_size = self.run.cfg.rollout.group_size
            for group in self.pools.rollouts.play_tasks(tasks, group_size):
                # It goes to the log before anything else is done with it.
                samples = self._plans[group.step].samples
                uids = [sample.uid for sample in samples]
                self.log.add(group.step, uids, group.index, group.episodes)
                with self._changed:
                    self._clock.end()
                self._arrive(group)
                if self._is_left:
                    return
        except BaseException as error:
            # The thread's boundary: the loop raises it.
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _tasks(self, first: int, last: int) -> Iterator[GroupTask | None]:
        """Yield the groups to be played, step by step; None while the next step must wait.

        Groups of the log arrive on the way.
        """
        for step in range(first, last + 1):
            while step > self._allowed and not self._is_closed:
                yield None
            if self._is_closed:
                return
            plan = self._plan(step)
            for group in self._played_before(step, plan):
                self._arrive(group)
            if plan.is_logged:
                continue
            # With groups that are played now it is another step than the one on record.
            self.recording.drop(step)
            for task in self._tasks_of(step, plan):
                if self._is_closed:
                    return
                with self._changed:
                    self._clock.begin()
                yield task

    def _tasks_of(self, step: int, plan: StepPlan) -> Iterator[GroupTask]:
        """Yield the groups of a step that are not in the log."""
        cfg = self.run.cfg.rollout
        return self.pools.rollouts.tasks(
            plan.samples,
            group_size=cfg.group_size,
            temperature=cfg.temperature,
            step=step,
            training=True,
            skip=plan.logged.keys(),
        )

    def _arrive(self, group: Played) -> None:
        """Take a played group.

        It is scored at once, while others still decode, unless the policy has to draw masks first.
        A sample without room for an answer is set aside.
        """
        if group.too_long:
            reasons = {group.sample.uid: group.episodes[0].error}
            for step in range(group.step, self._drawn + 1):
                self.draws.set_aside(step, reasons)
            self.run.progress.note(aside_line(reasons, f"samples of step {group.step}"))
        split = training_split(self.run.cfg)
        arrival = Arrival(group, self.masking.score_early(split, group))
        with self._changed:
            self._arrived[group.step].append(arrival)
            self._changed.notify_all()

    def _plan(self, step: int) -> StepPlan:
        """Draw the prompts of a step, and look for their groups in the log; once."""
        if step not in self._plans:
            samples = self.draws.of_step(step)
            uids = [sample.uid for sample in samples]
            oldest = step - 1 - self.staleness
            logged = self.log.read(step, uids, range(oldest, step))
            self._plans[step] = StepPlan(samples, logged)
            self._drawn = step
        return self._plans[step]

    def _played_before(self, step: int, plan: StepPlan) -> Iterator[Played]:
        """Yield the groups of the log, with their pixels decoded again."""
        videos = [plan.samples[index].video for index in plan.logged]
        groups = list(plan.logged.values())
        pixels = decode_again(videos, groups, self.run.placement)
        for (index, episodes), media_ref in zip(plan.logged.items(), pixels, strict=True):
            yield Played(index, plan.samples[index], episodes, media_ref, step, is_logged=True)

    def _bring_weights(self, step: int) -> None:
        """Give the rollout actors the learner's weights, if they hold others.

        After a death they may hold newer weights than groups that are played again ask for.
        """
        rollouts = self.pools.rollouts
        if rollouts.version != step - 1 and not self._plan(step).is_logged:
            rollouts.take(self.pools.learner.publish(step - 1))
