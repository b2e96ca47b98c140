"""The driver's side of the learner: its ranks, their batches (`actors.open_batch`) and weights.

The weights of tokens are counted over the whole batch, so the update does not depend on how groups
are dealt to rows and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import ray

from actors.drawer import DrawingPool
from actors.drawing import DrawBatch
from actors.learner import LearnerActor, RankPlace
from actors.objective import RowStats, StepReport, batch_metrics
from actors.open_batch import OpenBatch
from cluster.lost import LOST
from cluster.placement import Device, Placement
from cluster.refs import Handle, Method, Ref, results, start_actor
from cluster.weights import Stored, Wanted, WeightVersion, several_nodes
from configs.schema import Config
from core.types import Group, MediaSource, Update
from models.engine.settings import OBJECT_STORE

P = ParamSpec("P")
R = TypeVar("R")

# Seconds to wait for the news of a lost rank after an error of another one, which may only say that
# its connection broke.
ECHO_S = 10.0


class LearnerLost(Exception):
    """A rank of the learner is gone, and with it the process group of all ranks.

    No RuntimeError: others that handle such errors must let it through to the loop, which starts
    the ranks anew.

    Attributes:
        who: rank, process and machine.
        why: what it did, and the cause.
    """

    def __init__(self, who: str, why: str) -> None:
        super().__init__(f"{who} of the learner was lost {why}")
        self.who = who
        self.why = why


class LearnerPool(DrawingPool[LearnerActor]):
    """All ranks of the learner. Every method acts on all of them at once.

    Every method raises `LearnerLost` if a rank dies. The ranks that are left are of no use then.
    """

    def __init__(self, cfg: Config, placement: Placement, total_updates: int = 0) -> None:
        """Start the ranks.

        Args:
            total_updates: length of the learning-rate schedule; 0 means that of a training run.

        Raises:
            ValueError: an unusable policy or setting.
            LearnerLost: a rank died.
        """
        total = total_updates or cfg.train.steps * cfg.learner.optimizer_steps
        # Optimizer steps in a row that were skipped because loss or gradient was not finite.
        self.bad_steps = 0
        # The last version in the object store, if the next one may be a delta to it.
        self.stored: Stored | None = None
        self.watch = placement.watch
        # Process and machine of each rank, for messages.
        self.whereabouts: list[str] = []
        ranks: list[Handle[LearnerActor]] = []
        for number in range(cfg.learner.world_size):
            rank = start_actor(LearnerActor, placement.options("learner", number))
            self.watch.add(rank, "learner", number, together=True)
            ranks.append(rank)
        super().__init__(cfg, ranks)
        try:
            self._start_ranks(placement.device, total)
        except LearnerLost:
            self.kill()
            raise

    def _start_ranks(self, device: Device, total_updates: int) -> None:
        """Build the trainers of all ranks."""
        self.whereabouts = self.call_all("started", LearnerActor.whereabouts)
        # All ranks must know the first one's address before one of them can start.
        hosts = self.call_all("started", LearnerActor.address)
        self.places = rank_places(hosts, device)
        starting = []
        for rank, place in zip(self.ranks, self.places, strict=True):
            starting.append(rank.call(LearnerActor.start, self.cfg, device, place, total_updates))
        self.results(starting, "started")

    def results(self, calls: Sequence[Ref[R]], work: str) -> list[R]:
        """Wait for a call of each rank.

        Raises:
            LearnerLost: a rank died, or lost what it needs.
        """
        lost = first_lost(calls)
        if lost is None:
            return results(calls)
        rank, error = lost
        where = self.whereabouts[rank] if self.whereabouts else "not up yet"
        why = self.watch.why(self.ranks[rank], error)
        raise LearnerLost(f"rank {rank} ({where})", f"while it {work}: {why}") from error

    def look(
        self,
        calls: Sequence[Ref[R]],
        under_way: Sequence[Ref[R]],
        work: str,
    ) -> list[Ref[R]]:
        """Raise the errors of `results` if one of these calls has failed by now.

        Args:
            under_way: those of the calls that had not ended before.

        Returns:
            Those that are under way still.
        """
        if not under_way:
            return []
        ended, waiting = ray.wait(list(under_way), num_returns=len(under_way), timeout=0)
        if any_error(ended) is not None:
            self.results(calls, work)
        return waiting

    def call_all(
        self, work: str, method: Method[LearnerActor, P, R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """Call a method of all ranks at once; wait for all. Raises the errors of `results`."""
        calls: list[Ref[R]] = []
        for rank in self.ranks:
            calls.append(rank.call(method, *args, **kwargs))
        return self.results(calls, work)

    def begin(self, newest: int = 0, imitate: bool = False) -> OpenBatch:
        """Open a batch; groups are added to it as they come.

        Args:
            newest: version of the learner's weights; tokens of older ones have an age.
            imitate: learn from demonstrations, by cross-entropy.
        """
        return OpenBatch(self, newest, imitate)

    def learn(
        self,
        groups: Sequence[Group],
        sources: Sequence[MediaSource],
        masks: DrawBatch | None = None,
    ) -> Update:
        """Make the optimizer steps of GRPO on the groups of a whole batch (`OpenBatch`)."""
        opened = self.begin()
        opened.add(groups, sources, masks)
        return opened.finish()

    def imitate(
        self,
        demonstrations: Sequence[Group],
        sources: Sequence[MediaSource],
        masks: DrawBatch | None = None,
    ) -> Update:
        """Make one step of supervised fine-tuning: cross-entropy, mean over the batch's tokens.

        Args:
            demonstrations: groups with the ideal completion in every turn. Their log-probs,
                rewards and advantages are ignored.
        """
        opened = self.begin(imitate=True)
        opened.add(demonstrations, sources, masks)
        return opened.finish()

    def no_update(self, skipped_groups: int) -> Update:
        """Return the report of a batch without anything to learn from."""
        metrics = batch_metrics(RowStats(), RowStats())
        metrics["skipped_groups"] = float(skipped_groups)
        metrics["skipped_steps"] = 0.0
        metrics["bad_steps"] = float(self.bad_steps)
        return Update(0.0, 0.0, metrics)

    def combine(self, reports: Sequence[Sequence[StepReport]], skipped_groups: int) -> Update:
        """Combine the ranks' reports of every optimizer step on one batch."""
        steps: list[RowStats] = []
        norms: list[float] = []
        skipped_steps = 0
        for of_ranks in zip(*reports, strict=True):
            steps.append(RowStats.total([report.stats for report in of_ranks]))
            # The norm is the same on all ranks. A step without one was skipped.
            norm = of_ranks[0].grad_norm
            if norm is None:
                skipped_steps += 1
                self.bad_steps += 1
            else:
                norms.append(norm)
                self.bad_steps = 0

        metrics = batch_metrics(steps[0], steps[-1])
        metrics["skipped_groups"] = float(skipped_groups)
        metrics["skipped_steps"] = float(skipped_steps)
        metrics["bad_steps"] = float(self.bad_steps)
        metrics["lr"] = reports[0][-1].lr
        metrics["weight_max"] = max(of_rank[-1].weight_max for of_rank in reports)

        loss = float(np.mean([step.loss for step in steps]))
        grad_norm = mean_norm(norms)
        seconds = max(seconds_of(of_rank) for of_rank in reports)
        return Update(loss, grad_norm, metrics, seconds, steps[0].entropies)

    def publish(self, version: int) -> WeightVersion:
        """Make the current weights a version for rollout actors to pull.

        With a GPU backend the version names the ranks as its senders, and it must be taken before
        they learn on.
        """
        wanted = self._wanted()
        described: list[Ref[WeightVersion | None]] = []
        payloads: list[Ref[np.ndarray]] = []
        for rank in self.ranks:
            # Two results, so that the payload stays in the object store. As a result it belongs to
            # the driver: a rank's death does not take it away.
            publish = rank.actor.publish.options(num_returns=2)
            description, payload = publish.remote(version, wanted)
            described.append(description)
            payloads.append(payload)
        first = self.results(described, "published its weights")[0]
        assert first is not None, "rank 0 always publishes"
        if self.cfg.cluster.weight_backend != OBJECT_STORE:
            return replace(first, senders=tuple(self.ranks))
        kept = first.kept()
        if wanted != "nothing":
            return self._store(kept, payloads[0])
        self.stored = None
        if kept.held is None:
            # Its rank has died with it, which this call finds.
            self.call_all("published its weights", LearnerActor.address)
        return kept

    def _wanted(self) -> Wanted:
        """Return what the object store needs of the next version."""
        cluster = self.cfg.cluster
        if cluster.weight_backend != OBJECT_STORE:
            return "nothing"
        if cluster.weight_path == "auto" and not several_nodes():
            return "nothing"
        if cluster.weight_path == "full" or self.stored is None:
            return "full"
        return "delta" if len(self.stored.deltas) < cluster.weight_full_every else "full"

    def _store(self, version: WeightVersion, payload: Ref[np.ndarray]) -> WeightVersion:
        """Return a version with its payload, a full one or a delta to the one before."""
        if version.delta is None or self.stored is None:
            whole = version.with_full(payload)
        else:
            step = replace(version.delta, payload=payload)
            whole = replace(version, stored=self.stored.followed_by(step), delta=None)
        self.stored = whole.stored
        if self.cfg.cluster.weight_path == "auto":
            return whole
        return replace(whole, place=None, held=None)

    def head(self) -> dict[str, np.ndarray]:
        """Return the mask head's weights, for segmenters with `mask.redraw`."""
        return self.call_all("gave its mask head", LearnerActor.head)[0]

    def save(self, folder: Path | str, beside: bool = False) -> None:
        """Write policy, optimizer and random states into a folder within reach of all ranks.

        Args:
            beside: return once all ranks have copied their state, and write while they go on
                (`actors.save_marks` tells when they are done).
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.call_all("saved a checkpoint", LearnerActor.save, str(path.resolve()), beside)

    def check(self) -> None:
        """Raise `LearnerLost` if a rank is gone; to be called between other calls."""
        self.call_all("wrote a checkpoint", LearnerActor.address)

    def load(self, folder: Path | str) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it does not fit this policy.
        """
        path = Path(folder).resolve()
        self.call_all("loaded a checkpoint", LearnerActor.load, str(path))

    def close(self) -> None:
        """Take all ranks out of their process group, and end them."""
        # Their work is done: a rank that died now is no loss.
        with suppress(LearnerLost):
            self.call_all("ended", LearnerActor.close)
        self.kill()

    def kill(self) -> None:
        """End the process of every rank that is left, whatever it does."""
        for rank in self.ranks:
            self.watch.drop(rank)
        super().close()


def first_lost(calls: Sequence[Ref[Any]]) -> tuple[int, Exception] | None:
    """Return the rank of the first of these calls to be lost, with its error; None if none is.

    Calls are looked at as they end: a rank may wait for a lost one for ever.
    """
    waiting = list(calls)
    patience: float | None = None
    while waiting:
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=patience)
        if not ended:
            return None
        if waiting:
            also, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0)
            ended += also
        # As a rule nothing is wrong with any of them.
        if any_error(ended) is None:
            continue
        for call in ended:
            error = any_error([call])
            if isinstance(error, LOST):
                return calls.index(call), error
            # A user's mistake is no echo of a death.
            if isinstance(error, ValueError):
                return None
            if error is not None:
                patience = ECHO_S
    return None


def mean_norm(norms: Sequence[float]) -> float:
    """Return the mean norm of the gradients; no number if every step was skipped."""
    return float(np.mean(norms)) if norms else float("nan")


def seconds_of(reports: Sequence[StepReport]) -> float:
    """Return how long a rank computed for a batch."""
    return sum(report.seconds for report in reports)


def any_error(ended: Sequence[Ref[Any]]) -> Exception | None:
    """Return the error of one of some ended calls, or None."""
    try:
        ray.get(list(ended))
    except Exception as error:
        return error
    return None


def rank_places(hosts: Sequence[tuple[str, int]], device: Device) -> list[RankPlace]:
    """Number the ranks in the order of `hosts` (address, free port); the first is the master.

    On GPU Ray shows each rank its own device only, so every local rank is 0.
    """
    addresses = [address for address, _ in hosts]
    places: list[RankPlace] = []
    for rank, address in enumerate(addresses):
        local_rank = 0
        local_ranks = 1
        if device == "cpu":
            local_rank = addresses[:rank].count(address)
            local_ranks = addresses.count(address)
        places.append(RankPlace(rank, len(hosts), local_rank, local_ranks, master=hosts[0]))
    return places
