"""The playing of a run's groups, in a thread, while the loop learns from those that have come.

    player = Player(run, pools, masking, log, draws, recording, first=1, last=100)
    player.begin(1)
    while arrived := player.take(1, size=4):
        ...
    play = player.play_of(1)

The engines get one stream of groups, those of a step after those of the step before, and do not
wait for a step to end. Weights bound it: a group of step s is handed out when the weights of step
s - 1 - `rollout.max_staleness` are there, so none is older when it is learned. With 0 all are
strictly on policy. Otherwise the last group of a step still waits for the weights of step s - 1, so
that in every step some tokens show whether engine and learner see the same.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from actors.reward import Scoring
from actors.rollout import GroupTask, Played
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


@dataclass
class StepPlan:
    """What is played in a step.

    Attributes:
        drawn: Prompts that were drawn for it.
        logged: Groups of the group log, by the index of their prompts.
        samples: All prompts: those drawn, then those in the place of others.
        taken: Number of groups that the loop has taken.
    """

    drawn: tuple[Sample, ...]
    logged: Mapping[int, tuple[Episode, ...]]
    samples: list[Sample]
    taken: int = 0

    @cached_property
    def uids(self) -> list[str]:
        """The names of the prompts that were drawn."""
        return [sample.uid for sample in self.drawn]

    @property
    def is_logged(self) -> bool:
        """Whether none of the prompts that were drawn is left to play."""
        return all(index in self.logged for index in range(len(self.drawn)))


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
        # Groups that finished before those in front of them.
        self._early: dict[int, Arrival] = {}
        # Step and index of groups that go before all others.
        self._urgent: deque[tuple[int, int]] = deque()
        # Steps whose last group waits for their newest weights.
        self._held: set[int] = set()
        self._clock = BusyClock()
        self._allowed = first - 1
        self._is_closed = False
        self._is_left = False
        self._error: BaseException | None = None
        # It must not keep a process alive that ends.
        self._thread = threading.Thread(target=self._play_all, args=(first, last), daemon=True)
        self._thread.start()

    def begin(self, step: int) -> None:
        """Let the thread play the steps that the weights of the step before this one allow.

        Steps are begun in ascending order, when the step before is published.
        """
        if self.staleness == 0:
            self._bring_weights(step)
        with self._changed:
            self._allowed = step + self.staleness
            if step in self._held:
                self._held.remove(step)
                self._urgent.append((step, len(self._plans[step].drawn) - 1))

    def take(self, step: int, size: int) -> list[Arrival]:
        """Return the next groups of a step, fewer at its end, and then none.

        They come in the order of their prompts, or as they finish (`rollout.order`).

        Raises:
            Errors of the thread.
        """
        arrivals: list[Arrival] = []
        while len(arrivals) < size and self._is_left_over(step):
            arrivals.append(self._next(step))
            self._plans[step].taken += 1
        return arrivals

    def replace(self, step: int) -> bool:
        """Let another prompt be played in the place of one whose group has no variance.

        Returns:
            False if `rollout.max_replaced` prompts of the step were replaced.
        """
        plan = self._plans[step]
        number = len(plan.samples) - len(plan.drawn)
        if number == self.run.cfg.rollout.max_replaced:
            return False
        plan.samples.append(self.draws.instead(step, number))
        with self._changed:
            self._urgent.append((step, len(plan.samples) - 1))
        return True

    def play_of(self, step: int) -> StepPlay:
        """Return how the engines played since the step before; after the groups of this step."""
        with self._changed:
            self._arrived.pop(step)
            assert not self._early, "all groups of the step were taken"
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

    def _is_left_over(self, step: int) -> bool:
        """Return whether the loop has not taken all groups of a step."""
        with self._changed:
            self._changed.wait_for(lambda: step in self._plans or self._error is not None)
            if step not in self._plans:
                self._raise()
            plan = self._plans[step]
        return plan.taken < len(plan.samples)

    def _next(self, step: int) -> Arrival:
        """Wait for the next group of a step, in the order of `rollout.order`."""
        if self.run.cfg.rollout.order == "arrival":
            return self._next_arrival(step)
        index = self._plans[step].taken
        while index not in self._early:
            arrival = self._next_arrival(step)
            self._early[arrival.group.index] = arrival
        return self._early.pop(index)

    def _next_arrival(self, step: int) -> Arrival:
        """Wait for the next group of a step to come."""
        with self._changed:
            arrived = self._arrived[step]
            self._changed.wait_for(lambda: arrived or self._error is not None)
            if not arrived:
                self._raise()
            return arrived.popleft()

    def _raise(self) -> None:
        assert self._error is not None, "nothing else ends a wait"
        raise self._error

    def _play_all(self, first: int, last: int) -> None:
        """Play all steps; in the thread."""
        try:
            tasks = self._tasks(first, last)
            group_size = self.run.cfg.rollout.group_size
            for group in self.pools.rollouts.play_tasks(tasks, group_size):
                # It goes to the log before anything else is done with it.
                self._log(group)
                with self._changed:
                    self._clock.end()
                # What was written is needed no more, and the object store is not endless.
                self._arrive(replace(group, encoded=None))
                if self._is_left:
                    return
        except BaseException as error:
            # The thread's boundary: the loop raises it.
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _log(self, group: Played) -> None:
        """Write a group to the log."""
        uids = self._plans[group.step].uids
        encoded = None if group.encoded is None else group.encoded.data
        self.log.add(group.step, uids, group.index, group.episodes, encoded)

    def _tasks(self, first: int, last: int) -> Iterator[GroupTask | None]:
        """Yield the groups to be played, step by step; None while the next one must wait.

        Groups of the log arrive on the way.
        """
        for step in range(first, last + 2):
            # Behind the last step only urgent groups may come.
            while step > min(self._allowed, last):
                if self._is_closed:
                    return
                yield self._urgent_task()
            self._plan(step)
            indices = self._indices(step)
            self._arrive_logged(step, indices)
            for task in self._tasks_of(step, indices):
                urgent = self._urgent_task()
                while urgent is not None:
                    yield urgent
                    urgent = self._urgent_task()
                if self._is_closed:
                    return
                yield self._begun(task)

    def _indices(self, step: int) -> range:
        """Return the groups of a step that can be played now; its last one may have to wait."""
        count = len(self._plans[step].drawn)
        with self._changed:
            if step + self.staleness <= self._allowed:
                # The weights of the step before are there.
                return range(count)
            self._held.add(step)
            return range(count - 1)

    def _urgent_task(self) -> GroupTask | None:
        """Return a group that goes before all others, if there is one by now."""
        while self._urgent:
            step, index = self._urgent.popleft()
            self._arrive_logged(step, [index])
            for task in self._tasks_of(step, [index]):
                return self._begun(task)
        return None

    def _begun(self, task: GroupTask) -> GroupTask:
        """Note that a group is handed out."""
        # With groups that are played now it is another step than the one on record.
        self.recording.drop(task.step)
        with self._changed:
            self._clock.begin()
        return task

    def _tasks_of(self, step: int, indices: Collection[int]) -> Iterator[GroupTask]:
        """Yield those of the groups of a step that are not in the log."""
        cfg = self.run.cfg.rollout
        plan = self._plans[step]
        # The loop may replace further prompts meanwhile.
        samples = list(plan.samples)
        others = set(range(len(samples))).difference(indices)
        return self.pools.rollouts.tasks(
            samples,
            group_size=cfg.group_size,
            temperature=cfg.temperature,
            step=step,
            training=True,
            skip=others.union(plan.logged),
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
            drawn = tuple(self.draws.of_step(step))
            uids = [sample.uid for sample in drawn]
            oldest = step - 1 - self.staleness
            logged = self.log.read(step, uids, range(oldest, step))
            self._drawn = step
            with self._changed:
                self._plans[step] = StepPlan(drawn, logged, list(drawn))
                self._changed.notify_all()
        return self._plans[step]

    def _arrive_logged(self, step: int, indices: Collection[int]) -> None:
        """Take those of the groups of a step that are in the log."""
        plan = self._plans[step]
        for index, episodes in plan.logged.items():
            if index in indices:
                self._arrive(Played(index, plan.samples[index], episodes, step, is_logged=True))

    def _bring_weights(self, step: int) -> None:
        """Give the rollout actors the learner's weights, if they hold others.

        After a death they may hold newer weights than groups that are played again ask for.
        """
        rollouts = self.pools.rollouts
        if rollouts.version != step - 1 and not self._plan(step).is_logged:
            rollouts.take(self.pools.learner.publish(step - 1))
