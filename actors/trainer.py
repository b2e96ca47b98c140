"""One rank of the learner as a plain object: policy, DeepSpeed engine and its work on rows.

Construct it only after the environment variables of the process group are set
(`actors.learner.RankPlace.environment`): DeepSpeed joins the other ranks by them.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor

from actors import learner_state, optimizer, policies, whole_weights
from actors.drawing import DrawBatch, DrawnMasks, draw_rows
from actors.learning_rate import learning_rate
from actors.objective import (
    RowStats,
    StepReport,
    add_mask_loss,
    grpo_loss,
    imitation_loss,
    spread_failure,
)
from cluster.build_ops import load_operator
from cluster.placement import Device
from cluster.weight_writer import WeightWriter
from cluster.weights import Wanted, WeightVersion
from configs.load import resolve
from configs.schema import Config
from core.batch import GroupBatch, Tree, build_row
from core.pulse import tick, working
from core.types import MediaSource
from data.frames.shown import images_of_row
from models.engine import weight_senders
from models.engine.weight_senders import IpcSender, NcclSender
from models.policy.pixels import Pixels
from models.policy.policy import PolicyOutput


@dataclass
class PreparedRow:
    """A row with the inputs of its forward and loss, the same for all steps on its batch.

    Attributes:
        patches: patches of its images, and their grid.
        drawing: draw requests and pixels of their frames; empty without mask targets.
        reference_N: log-probs of the reference policy, with a KL term.
        old_N: log-probs before the batch's first optimizer step, from its own forward.
    """

    row: GroupBatch
    patches: tuple[Tensor, Tensor]
    drawing: tuple[Any, ...]
    reference_N: Tensor | None = None
    old_N: Tensor | None = None


@dataclass
class Batch:
    """The open batch of a rank: gradients are added up until its last row has come.

    Attributes:
        newest: version of the weights that it is learned with.
        imitate: it holds demonstrations instead of judged groups.
        stats: statistics of the rows that were computed since the last optimizer step.
        kept: all rows, if further optimizer steps shall follow.
        seconds: time of computation since the last optimizer step.
    """

    newest: int
    imitate: bool
    stats: list[RowStats] = field(default_factory=list)
    kept: list[PreparedRow] = field(default_factory=list)
    seconds: float = 0.0


class Beside:
    """A thread with one piece of work at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start a piece of work; the last one was settled."""
        self._work = self._thread.submit(work)

    def settle(self) -> None:
        """Wait for the work under way, if there is any. Raises its errors."""
        work = self._work
        if work is not None:
            self._work = None
            work.result()


class TrainerRank:
    """One DeepSpeed rank. Every method but `connect` is collective: all ranks call it together."""

    def __init__(
        self, cfg: Config, device: Device, rank: int, ranks: int, total_updates: int
    ) -> None:
        """Join the other ranks and load the policy, and the reference if the KL term is on.

        Args:
            total_updates: length of the learning-rate schedule.

        Raises:
            ValueError: a GPU weight backend without a GPU, or an unusable policy.
        """
        if device == "cpu":
            torch.set_num_threads(1)
        self.cfg = cfg
        self.rank = rank
        self.ranks = ranks
        self.total_updates = total_updates
        self.updates = 0
        # Whether it has learned since its start.
        self.is_warm = False
        self.batch: Batch | None = None
        # It computes a row, while another one is prepared.
        self.beside = Beside()

        # A backend that cannot work is refused before the ranks wait for each other.
        self.sender: NcclSender | IpcSender | None = None
        if cfg.cluster.weight_backend != "object_store":
            self.sender = weight_senders.make(cfg.cluster.weight_backend)
        self.writer = WeightWriter()
        # Whether frozen weights are in the last version; they are written once.
        self.has_published = False
        # ipc: buffers of the version that is being taken.
        self.messages: Iterator[dict[str, Any]] | None = None

        backend = "nccl" if device == "cuda" else "gloo"
        if device == "cpu":
            load_operator()
        deepspeed.init_distributed(dist_backend=backend, verbose=False)

        learner_state.seed_all(cfg.seed + rank)
        self.folder = resolve(cfg.policy.path)
        policy, self.reference = policies.load(cfg, self.folder, device)
        self.pixels = Pixels(self.folder)
        self.engine = optimizer.start_engine(policy, cfg)
        self.layout = policy.layout

    def draw(
        self, rows: list[list[Tree]], sources: Mapping[int, MediaSource], requests: DrawBatch
    ) -> DrawnMasks:
        """Draw the masks of finished episodes."""
        self.beside.settle()
        return draw_rows(self.engine.module, self.pixels, rows, sources, requests)

    def add(
        self,
        rows: list[list[Tree]],
        sources: Mapping[int, MediaSource],
        newest: int,
        imitate: bool,
        targets: DrawBatch | None = None,
    ) -> None:
        """Add the gradients of these rows to those of the open batch; the first rows open one.

        A thread computes row after row, while this one lays out the next, reads its images and
        makes their patches. It returns when the last row has begun.

        Args:
            rows: the trees of each row.
            sources: where the images of the groups come from, by the number of the group.
            newest: version of the weights here.
            imitate: learn demonstrations instead of judged groups.
            targets: masks to learn from, on all ranks or on none.
        """
        if self.batch is None:
            self.batch = Batch(newest, imitate)
        for forest in rows:
            row = build_row(forest, self.layout)
            shown = images_of_row(forest, sources)
            patches = self.pixels([shown[digest] for digest in row.images])
            drawing = () if targets is None else targets.of_row(row)
            prepared = PreparedRow(row, patches, drawing)
            tick()
            self.beside.settle()
            self.beside.start(functools.partial(self._add, self.batch, prepared))

    def finish(self, divisor: float) -> list[StepReport]:
        """Make the optimizer steps on the open batch, and close it; return a report of each.

        Args:
            divisor: count of the whole batch that the gradients and losses are divided by.
        """
        self.beside.settle()
        assert self.batch is not None, "rows come first"
        batch = self.batch
        self.batch = None
        with working("learn", self._patience_s):
            reports = [self._step(batch, divisor)]
            for _ in range(1, self._steps_on(batch)):
                for prepared in batch.kept:
                    self._compute(batch, prepared)
                reports.append(self._step(batch, divisor))
        self.is_warm = True
        return reports

    def _steps_on(self, batch: Batch) -> int:
        return 1 if batch.imitate else self.cfg.learner.optimizer_steps

    @property
    def _patience_s(self) -> float:
        # The first rows compile what a GPU needs.
        return 0.0 if self.is_warm else math.inf

    def _add(self, batch: Batch, prepared: PreparedRow) -> None:
        """Compute a new row; in the thread."""
        with working("learn", self._patience_s):
            # The reference never changes, so its log-probs serve all steps on the batch.
            if self.reference is not None and not batch.imitate:
                temperature = self.cfg.rollout.temperature
                [prepared.reference_N] = self.reference.logprobs(
                    [prepared.row], [prepared.patches], temperature
                )
            self._compute(batch, prepared)
            if self._steps_on(batch) > 1:
                batch.kept.append(prepared)

    def _compute(self, batch: Batch, prepared: PreparedRow) -> None:
        """Add the gradients of one row."""
        began = time.monotonic()
        temperature = 1.0 if batch.imitate else self.cfg.rollout.temperature
        output: PolicyOutput = self.engine(
            prepared.row, *prepared.patches, temperature, *prepared.drawing
        )
        tick()
        loss, row_stats = self._loss(output, prepared, batch)
        batch.stats.append(row_stats)
        # DeepSpeed takes the mean over ranks, but the loss is a sum over the global batch.
        self.engine.backward(loss * self.ranks)
        tick()
        batch.seconds += time.monotonic() - began

    def _step(self, batch: Batch, divisor: float) -> StepReport:
        """Make one optimizer step on the gradients of all rows."""
        began = time.monotonic()
        lr = learning_rate(self.updates, self.total_updates, self.cfg.learner)
        grad_norm = optimizer.step(self.engine, lr, divisor)
        self.updates += 1
        weight_max = optimizer.largest_weight(self.engine)
        seconds = batch.seconds + time.monotonic() - began
        stats = RowStats.total(batch.stats).divided(divisor)
        batch.stats.clear()
        batch.seconds = 0.0
        return StepReport(stats, grad_norm, lr, weight_max, seconds)

    def _loss(
        self, output: PolicyOutput, prepared: PreparedRow, batch: Batch
    ) -> tuple[Tensor, RowStats]:
        """Return the row's share of the loss, and its statistics."""
        if prepared.old_N is None:
            # From the very same forward, so that on policy the ratio is exactly 1.
            prepared.old_N = output.logprob_N.detach()
        if batch.imitate:
            loss, stats = imitation_loss(output.logprob_N, output.entropy_N, prepared.row)
        else:
            loss, stats = grpo_loss(
                output.logprob_N,
                output.entropy_N,
                prepared.row,
                self.cfg.grpo,
                old_N=prepared.old_N,
                reference_N=prepared.reference_N,
                off_policy=self.cfg.rollout.max_staleness > 0,
                newest=batch.newest,
                text_N=output.text_logprob_N,
            )
        if output.auxiliary is not None:
            loss, stats = add_mask_loss(loss, stats, output.auxiliary)
        return spread_failure(loss, output.logprob_N), stats

    def publish(
        self, version: int, wanted: Wanted = "nothing"
    ) -> tuple[WeightVersion | None, np.ndarray | None]:
        """Write a version of the weights into shared memory and return it, on rank 0.

        With a GPU backend only describe them, on every rank: the bytes are sent on request.

        Args:
            wanted: what to return beside it, for the object store. A delta may become a full one.
        """
        adapter_alone = self.cfg.learner.lora_publish == "adapter"
        weights = whole_weights.published(self.engine, adapter_alone)
        tensors = whole_weights.describe(weights)
        if self.sender is not None:
            return WeightVersion(version, *tensors), None

        names = tensors.names
        if self.has_published:
            names = whole_weights.learning(weights)
        if self.rank != 0:
            whole_weights.hand_over(self.engine, weights, names, draft=None)
            self.has_published = True
            return None, None
        draft = self.writer.draft(*tensors)
        whole_weights.hand_over(self.engine, weights, names, draft)
        written = draft.finish(version)
        self.has_published = True
        if wanted == "nothing":
            return written, None
        found = draft.delta(written) if wanted == "delta" else None
        if found is None:
            return written, draft.buffer.file.data
        delta, payload = found
        return replace(written, delta=delta), payload

    def head(self) -> dict[str, np.ndarray]:
        """Return the mask head's weights on rank 0; empty on other ranks."""
        return whole_weights.head_state(self.engine)

    def connect(self, master: dict[str, Any]) -> None:
        """Join the engines' process group (rank 0, nccl)."""
        assert isinstance(self.sender, NcclSender), "only with cluster.weight_backend=nccl"
        self.sender.connect(master)

    def send(self) -> None:
        """Broadcast the weights (nccl), or take part in gathering them (ipc without an engine)."""
        assert self.sender is not None, "only with a GPU weight backend"
        self.sender.send(whole_weights.whole_tensors(self.engine))

    def next_message(self) -> dict[str, Any] | None:
        """Return the place of the next buffer of weights; None after the last (ipc).

        A request for a buffer confirms the one before.
        """
        assert isinstance(self.sender, IpcSender), "only with cluster.weight_backend=ipc"
        if self.messages is None:
            tensors = whole_weights.whole_tensors(self.engine)
            largest = whole_weights.largest_bytes(self.engine)
            self.messages = self.sender.messages(tensors, largest)
        message = next(self.messages, None)
        if message is None:
            self.messages = None
        return message

    def save(self, folder: str, beside: bool = False) -> None:
        """Write a checkpoint into an existing folder.

        Args:
            beside: return once everything is copied to CPU memory, and write in a thread, which
                leaves the mark of this rank in the end (`learner_state.mark_of`).
        """
        # A stop may come in the middle of a batch, whose gradients are left behind.
        self.beside.settle()
        take = learner_state.Snapshot.take
        snapshot = take(self.engine, self.folder, self.updates, copy=beside)
        if not beside:
            snapshot.write(Path(folder))
            return
        writing = threading.Thread(target=learner_state.write_beside, args=(snapshot, Path(folder)))
        writing.start()

    def load(self, folder: str) -> None:
        """Go on from a checkpoint. Raises the errors of `learner_state.load`."""
        self.updates = learner_state.load(self.engine, Path(folder), self.folder)
        # A checkpoint holds frozen weights, too.
        self.has_published = False

    def close(self) -> None:
        """Leave the process group."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
