"""The playing of a run's groups, in a thread, while the loop learns from those that have come.

    player = Player(run, pools, masking, log, draws, recording, first=1, last=100)
    for arrival in player.groups(1):
        ...
    play = player.play_of(1)

Weights bound it: step s is played when the weights of step s - 1 - `rollout.max_staleness` are
there. With 0 it is strictly on policy.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.reward import Scoring
from actors.rollout import Played
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
    """The playing of one step.

    Attributes:
        logged: Number of groups from the group log, which were played before a death.
        set_aside: Number of samples set aside so far.
        seconds: From the first group handed out to the last one finished.
        engines: Rollout engines that played, the mean of start and end.
    """

    logged: int
    set_aside: int
    seconds: float
    engines: float


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
        self._plans: dict[int, StepPlan] = {}
        # All below is guarded by the condition.
        self._changed = threading.Condition()
        self._arrived: dict[int, deque[Arrival]] = defaultdict(deque)
        self._plays: dict[int, StepPlay] = {}
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
            self._changed.notify_all()
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
        """Return how a step was played, after its groups were taken."""
        with self._changed:
            self._changed.wait_for(lambda: step in self._plays or self._error is not None)
            if step not in self._plays:
                self._raise()
            del self._arrived[step]
            return self._plays.pop(step)

    def finish_step(self) -> None:
        """Let the groups of the step under way reach the log, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def leave(self) -> None:
        """End after the next group."""
        with self._changed:
            self._is_closed = True
            self._is_left = True
            self._changed.notify_all()
        self._thread.join(LEAVE_S)

    def _next(self, step: int) -> Arrival:
        """Wait for the next group of a step."""
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
            for step in range(first, last + 1):
                if not self._may_play(step):
                    return
                self._play(step)
        except BaseException as error:
            # The thread's boundary: the loop raises it.
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _may_play(self, step: int) -> bool:
        """Wait until a step may be played; return False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or step <= self._allowed)
            return not self._is_closed

    def _play(self, step: int) -> None:
        """Play G episodes of each prompt of a step.

        Each group is scored at once, while others still decode, unless the policy has to draw masks
        first. A sample without room for an answer is set aside.
        """
        began = time.monotonic()
        before = len(self.pools.rollouts.up())
        split = training_split(self.run.cfg)
        logged = 0
        too_long: dict[int, Played] = {}
        for group in self._groups(step):
            logged += group.is_logged
            if group.too_long:
                too_long[group.index] = group
            arrival = Arrival(group, self.masking.score_early(split, group))
            with self._changed:
                self._arrived[step].append(arrival)
                self._changed.notify_all()
                if self._is_left:
                    return

        self._set_aside(step, too_long)
        play = StepPlay(
            logged=logged,
            set_aside=len(self.draws.after(step).aside),
            seconds=time.monotonic() - began,
            engines=(before + len(self.pools.rollouts.up())) / 2,
        )
        with self._changed:
            self._plays[step] = play
            self._changed.notify_all()

    def _groups(self, step: int) -> Iterator[Played]:
        """Yield the groups of a step: those of the group log, then the others as they are played.

        A group goes to the log before anything else is done with it.
        """
        cfg = self.run.cfg.rollout
        plan = self._plan(step)
        del self._plans[step]
        yield from self._played_before(plan)
        if plan.is_logged:
            return

        # With groups that are played now it is another step than the one on record.
        self.recording.drop(step)
        arrivals = self.pools.rollouts.play(
            plan.samples,
            group_size=cfg.group_size,
            temperature=cfg.temperature,
            step=step,
            training=True,
            skip=plan.logged.keys(),
        )
        uids = [sample.uid for sample in plan.samples]
        for group in arrivals:
            self.log.add(step, uids, group.index, group.episodes)
            yield group

    def _plan(self, step: int) -> StepPlan:
        """Draw the prompts of a step, and look for their groups in the log; once."""
        if step not in self._plans:
            samples = self.draws.of_step(step)
            uids = [sample.uid for sample in samples]
            oldest = step - 1 - self.staleness
            logged = self.log.read(step, uids, range(oldest, step))
            self._plans[step] = StepPlan(samples, logged)
        return self._plans[step]

    def _played_before(self, plan: StepPlan) -> Iterator[Played]:
        """Yield the groups of the log, with their pixels decoded again."""
        videos = [plan.samples[index].video for index in plan.logged]
        groups = list(plan.logged.values())
        pixels = decode_again(videos, groups, self.run.placement)
        for (index, episodes), media_ref in zip(plan.logged.items(), pixels, strict=True):
            yield Played(index, plan.samples[index], episodes, media_ref, is_logged=True)

    def _bring_weights(self, step: int) -> None:
        """Give the rollout actors the learner's weights, if they hold others.

        After a death they may hold newer weights than groups that are played again ask for.
        """
        rollouts = self.pools.rollouts
        if rollouts.version != step - 1 and not self._plan(step).is_logged:
            rollouts.take(self.pools.learner.publish(step - 1))

    def _set_aside(self, step: int, too_long: Mapping[int, Played]) -> None:
        """Draw samples without room for an answer no more."""
        if not too_long:
            return
        reasons: dict[str, str] = {}
        for index in sorted(too_long):
            group = too_long[index]
            reasons[group.sample.uid] = group.episodes[0].error
        self.draws.set_aside(step, reasons)
        self.run.progress.note(aside_line(reasons, f"samples of step {step}"))
