"""The driver's watch over all actors of a job: it turns a hang into a death.

One thread asks every actor, a few times in `cluster.hang_s`, what it is doing (`cluster.beat`). An
actor that does not answer, or that is at work without a sign of progress, hangs. Its kind, number,
process and stack are printed, then it is killed: whoever waits for it gets an error of
`cluster.lost.LOST`, and starts another one. So no wait of the driver lasts for ever.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import autopsy
from cluster.beat import Answer, Beat
from cluster.lost import Deaths, cause
from cluster.refs import Handle, Method, Ref
from cluster.usage import Usage

T = TypeVar("T")

# Questions to an actor in the time of a hang.
QUESTIONS = 20
# Share of `hang_s` after which a hang is certain: the rest is for finding and printing it.
CERTAIN = 0.8
# Questions without an answer after which an actor counts as silent beside the others.
SILENT = 3
# Longest wait for the stack of a process.
AUTOPSY_S = 30.0


@dataclass(frozen=True)
class Limits:
    """Limits of a watch, in seconds.

    Attributes:
        hang_s: a hang is found and printed within this time; 0: nothing is watched.
        start_s: longest start of an actor, and longest loading or writing of a method marked
            `cluster.beat.patient`.
    """

    hang_s: float = 0.0
    start_s: float = math.inf

    @property
    def quiet_s(self) -> float:
        """Silence that proves a hang."""
        return CERTAIN * self.hang_s

    @property
    def every_s(self) -> float:
        """Time between two questions to an actor."""
        return self.hang_s / QUESTIONS


@dataclass(eq=False)
class Watched:
    """An actor under watch. Times are those of the monotonic clock.

    Attributes:
        kind: rollout, reward, segmenter, drawer, judge or learner.
        number: its number in its pool; a rank of the learner.
        together: it works with all others of its kind in collective operations.
        asked: time of the question that waits for an answer; None if none does.
        question: that question.
        answer: the last answer; None before it is up.
        look: at its processes, while it starts.
        looked: time of the last look; None before the first one.
        stopped: its processes that were stopped then.
        stuck: those that were stopped at the look before as well.
    """

    handle: Handle[Any]
    kind: str
    number: int
    together: bool
    asked: float | None = None
    question: Ref[Answer] | None = None
    answer: Answer | None = None
    look: Ref[list[int]] | None = None
    looked: float | None = None
    stopped: frozenset[int] = frozenset()
    stuck: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Kind and number in words."""
        return f"{self.kind} {'rank' if self.together else 'actor'} {self.number}"

    def silence(self, now: float) -> float:
        """Return the seconds since the question that it has not answered yet."""
        return 0.0 if self.asked is None else now - self.asked


@dataclass(frozen=True)
class Seen:
    """An actor as it was last seen, in words.

    Attributes:
        kind: as of `Watched`.
        name: kind and number.
        doing: what it does.
        seconds: how long it has been doing that; 0 if nobody knows.
        usage: its process and memory; None before its first answer.
    """

    kind: str
    name: str
    doing: str
    seconds: float
    usage: Usage | None


def seen(actor: Watched, now: float, limits: Limits) -> Seen:
    """Return in words what an actor does."""
    silence = actor.silence(now)
    if actor.answer is None:
        doing = "starts" if limits.hang_s else "nobody asks it (cluster.hang_s=0)"
        return Seen(actor.kind, actor.name, doing, silence, None)
    pulse = actor.answer.pulse
    doing = pulse.work or "idle"
    if actor.answer.waits:
        doing = f"{doing}, waits for the other ranks"
    if silence > SILENT * limits.every_s:
        doing = f"{doing}, no answer for {silence:.0f} s"
    return Seen(actor.kind, actor.name, doing, pulse.seconds, actor.answer.usage)


def hang_of(actor: Watched, now: float, limits: Limits) -> str | None:
    """Return in words why an actor hangs; None if it does not."""
    silence = actor.silence(now)
    if actor.answer is None:
        if silence > limits.start_s:
            return f"not up {silence:.0f} s after its start (cluster.start_s)"
        if actor.stuck:
            numbers = ", ".join(map(str, sorted(actor.stuck)))
            return f"process {numbers} is stopped while it starts"
        return None

    pulse = actor.answer.pulse
    if silence > limits.quiet_s:
        doing = f"in {pulse.work}" if pulse.work else "idle"
        return f"no answer for {silence:.0f} s, last seen {doing}"
    patience_s = min(pulse.patience_s, limits.start_s)
    if pulse.work and pulse.quiet_s > limits.quiet_s + patience_s:
        return f"no progress in {pulse.work} for {pulse.quiet_s:.0f} s"
    return None


def hung(actors: Sequence[Watched], now: float, limits: Limits) -> list[tuple[Watched, str]]:
    """Return the actors to blame for a hang, each with the reason in words."""
    found = []
    for actor in actors:
        reason = hang_of(actor, now, limits)
        if reason is not None and actor in _suspects(actors, actor, now, limits):
            found.append((actor, reason))
    return found


def _suspects(
    actors: Sequence[Watched], actor: Watched, now: float, limits: Limits
) -> list[Watched]:
    """Return the actors that may be why this one does not go on.

    Ranks that wait for each other all stand still. To blame is one that does not answer, or one
    that is not inside the collective operation.
    """
    if not actor.together:
        return [actor]
    ranks = [other for other in actors if other.together and other.kind == actor.kind]
    silent = [rank for rank in ranks if rank.silence(now) > SILENT * limits.every_s]
    if silent:
        return silent
    outside = [rank for rank in ranks if rank.answer is None or not rank.answer.waits]
    return outside or ranks


class Watch:
    """All running actors of a job."""

    def __init__(self, deaths: Deaths | None = None, limits: Limits | None = None) -> None:
        self.deaths = deaths or Deaths()
        self.limits = limits or Limits()
        self._actors: dict[Handle[Any], Watched] = {}
        # Why an actor was killed by this watch.
        self._reasons: dict[Handle[Any], str] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def add(
        self,
        handle: Handle[Any],
        kind: str,
        number: int,
        *,
        together: bool = False,
    ) -> None:
        """Watch an actor that was started.

        Args:
            together: it works with all others of its kind in collective operations.
        """
        with self._lock:
            self._actors[handle] = Watched(handle, kind, number, together)
            if self.limits.hang_s > 0 and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()

    def drop(self, handle: Handle[Any]) -> None:
        """Watch an actor no more: it was lost, or is about to be ended."""
        with self._lock:
            self._actors.pop(handle, None)

    def seen(self) -> list[Seen]:
        """Return all actors as they were last seen; without a limit of hangs nobody looks."""
        now = time.monotonic()
        with self._lock:
            actors = list(self._actors.values())
        return [seen(actor, now, self.limits) for actor in actors]

    def ask_all(self, question: Method[Any, [], T], timeout_s: float) -> dict[str, T]:
        """Ask all actors a question of `Beat`; return the answers that come in time, by name."""
        with self._lock:
            actors = list(self._actors.values())
        asked = {actor.handle.call(question): actor.name for actor in actors}
        if not asked:
            return {}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
        answers = {}
        for ref in done:
            # Whoever uses a lost actor finds out, and replaces it.
            with contextlib.suppress(ray.exceptions.RayError):
                answers[asked[ref]] = ray.get(ref)
        return answers

    def lost(
        self, handle: Handle[Any], kind: str, number: int, error: BaseException, then: str
    ) -> str:
        """Count a lost actor and say it; return the reason in words.

        Args:
            then: what is done about it.
        """
        self.drop(handle)
        why = self.why(handle, error)
        self.deaths.add(kind, f"{number} ({handle.where()})", why, then)
        return why

    def close(self) -> None:
        """Stop to watch."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def why(self, handle: Handle[Any], error: BaseException) -> str:
        """Return in words why an actor was lost."""
        return self._reasons.get(handle) or cause(error)

    def _run(self) -> None:
        """Ask and listen until no actor is left."""
        last_round = time.monotonic()
        while not self._closed.wait(self.limits.every_s):
            now = time.monotonic()
            # The driver itself was stopped: the others had no chance to be heard.
            excused = now - last_round > SILENT * self.limits.every_s
            last_round = now
            with self._lock:
                actors = list(self._actors.values())
                if not actors or not ray.is_initialized():
                    self._thread = None
                    return
            try:
                self._round(actors, now, excused)
            except Exception as error:
                # Without its watch a run goes on as well.
                self.deaths.say(f"the watch over the actors missed a round: {error!r}")

    def _round(self, actors: Sequence[Watched], now: float, excused: bool) -> None:
        for actor in actors:
            self._listen(actor, now, excused)
            self._look(actor, now)
        for actor, reason in hung(actors, now, self.limits):
            self._end(actor, reason)

    def _listen(self, actor: Watched, now: float, excused: bool) -> None:
        """Read the answer of an actor if it is there, and ask the next question."""
        if actor.question is not None:
            done, _ = ray.wait([actor.question], timeout=0)
            if done:
                try:
                    actor.answer = ray.get(done[0])
                except ray.exceptions.RayError:
                    # It is dead. Whoever uses it finds out, and replaces it.
                    self.drop(actor.handle)
                    return
                actor.question = None
                actor.asked = None
        if actor.question is None:
            actor.question = actor.handle.call(Beat.beat)
            actor.asked = now
        elif excused or (actor.answer is None and not actor.handle.where().pid):
            # Nothing can be said of an actor that waits for room on the cluster.
            actor.asked = now

    def _look(self, actor: Watched, now: float) -> None:
        """Look for stopped processes of an actor that starts, twice in the time of a hang.

        It answers nothing before its constructor has run, and that may take long.
        """
        if actor.answer is not None:
            return
        if actor.looked is None:
            actor.looked = now
        if actor.look is None:
            where = actor.handle.where()
            if where.pid and now - actor.looked > self.limits.quiet_s / 2:
                actor.look = autopsy.stopped.options(**_on(where.node)).remote(where.pid)
                actor.looked = now
            return
        done, _ = ray.wait([actor.look], timeout=0)
        if done:
            found: frozenset[int] = frozenset()
            with contextlib.suppress(ray.exceptions.RayError):
                found = frozenset(ray.get(done[0]))
            actor.stuck = found & actor.stopped
            actor.stopped = found
            actor.look = None

    def _end(self, actor: Watched, reason: str) -> None:
        """Print what is known of an actor that hangs, and kill it."""
        where = actor.handle.where()
        say = self.deaths.say
        say(f"{actor.name} ({where}) hangs: {reason}. Its Python stack, then it is killed:")
        there = _on(where.node)
        say(self._stacks(actor, where.pid, there))
        self._reasons[actor.handle] = f"it hung, {reason}"
        self.drop(actor.handle)
        with contextlib.suppress(ray.exceptions.RayError):
            ended = autopsy.end.options(**there).remote(where.pid)
            ray.get(ended, timeout=AUTOPSY_S)
        # Its node may be out of reach.
        actor.handle.kill()

    def _stacks(self, actor: Watched, pid: int, there: dict[str, Any]) -> str:
        """Return the stacks of an actor's process and of its children."""
        own = "no stack of its own: it does not answer"
        with contextlib.suppress(ray.exceptions.RayError):
            answers = actor.silence(time.monotonic()) <= SILENT * self.limits.every_s
            own = ray.get(actor.handle.call(Beat.stacks), timeout=2.0) if answers else own
        try:
            call = autopsy.look.options(**there).remote(pid)
            seen = ray.get(call, timeout=AUTOPSY_S)
        except ray.exceptions.RayError as error:
            return f"no stack from its node ({type(error).__name__})\n{own}"
        return seen.stacks if seen.readable else f"{seen.stacks}\n{own}"


def _on(node: str) -> dict[str, Any]:
    """Return the options of a task for this very node."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
