"""A learner actor: one DeepSpeed rank, which adds up the gradients of its rows and takes part in the optimizer's step.

Who gives rows to all ranks is `actors.learner_pool`. A policy that draws masks itself draws here, with the newest
weights, and adds losses of its own to ours (`actors.drawing`).
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from actors.drawing import Asked, Found, draw_rows
from actors.objective import Sums, grpo_loss, imitation_loss, join, must_fail, with_masks
from cluster.refs import MediaRef, load_media
from cluster.weights import WeightVersion
from configs.load import resolve
from configs.schema import Config
from core.batch import GroupBatch, ImageLayout

if TYPE_CHECKING:
    from models.policy.policy import PolicyOutput

Report = tuple[
    Sums, float | None, float
]  # of one step: this rank's sums, gradient norm (None: skipped), learning rate


@dataclass(frozen=True)
class Place:
    """Where one rank stands among the others."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    master: tuple[str, int]


class Learner:
    """One DeepSpeed rank. Every method but `address` and `connect` is collective: all ranks are called together."""

    def address(self) -> tuple[str, int]:
        """This node's address and a port that is free on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return (
            "127.0.0.1"
            if os.environ.get("GLOO_SOCKET_IFNAME") == "lo"
            else ray.util.get_node_ip_address()
        ), port

    def start(self, cfg: Config, device: str, place: Place, total_updates: int) -> ImageLayout:
        """Loads the policy (and the reference, if the KL term is on) and joins the other ranks."""
        import torch

        self.cfg = cfg
        self.place = place
        self.total = total_updates
        self.updates = 0
        self.device = device
        if self.device == "cpu":
            torch.set_num_threads(1)
        self.sender: Any = None
        self.messages: Any = None  # ipc: of the version that is being taken
        if cfg.cluster.weight_backend != "object_store":
            from models.engine import weight_senders

            self.sender = weight_senders.make(cfg.cluster.weight_backend)
        join_ranks(place, self.device)
        from actors import optimizer, policies
        from models.policy.pixels import Pixels

        random.seed(cfg.seed + place.rank)
        np.random.seed(cfg.seed + place.rank)
        torch.manual_seed(cfg.seed + place.rank)
        self.folder = folder = resolve(cfg.policy.path)
        policy, self.reference = policies.load(cfg, folder, self.device)
        self.pixels = Pixels(folder)
        self.engine = optimizer.start(policy, cfg)
        return policy.layout

    def draw(self, rows: list[GroupBatch], media: dict[int, MediaRef], wanted: Asked) -> Found:
        """Masks of episodes that have ended."""
        return draw_rows(self.engine.module, self.pixels, rows, load_media(media), wanted)

    def learn(
        self,
        rows: list[GroupBatch],
        media: dict[int, MediaRef],
        imitate: bool,
        masks: Asked | None = None,
    ) -> list[Report]:
        """Optimizer steps on these rows, one report for each. `masks`: on all ranks or on none."""
        shown = load_media(media)
        patches = [self.pixels([shown[digest] for digest in row.images]) for row in rows]
        extras: list[Any] = [() if masks is None else masks.of_row(row) for row in rows]
        temperature = 1.0 if imitate else self.cfg.rollout.temperature
        old: list[Any] = [None] * len(rows)  # log-probs before the first step
        reference: list[Any] = [None] * len(rows)
        if self.reference is not None and not imitate:
            reference = self.reference.logprobs(rows, patches, temperature)
        return [
            self._update(rows, patches, extras, temperature, imitate, old, reference)
            for _ in range(1 if imitate else self.cfg.learner.optimizer_steps)
        ]

    def _update(
        self,
        rows: list[GroupBatch],
        patches: list[Any],
        extras: list[Any],
        temperature: float,
        imitate: bool,
        old: list[Any],
        reference: list[Any],
    ) -> Report:
        from actors import optimizer

        sums: list[Sums] = []
        for i, row in enumerate(rows):
            output: PolicyOutput = self.engine(row, *patches[i], temperature, *extras[i])
            if old[i] is None:  # of the very same forward: on policy the ratio is exactly 1
                old[i] = output.logprob_N.detach()
            if imitate:
                loss, report = imitation_loss(output.logprob_N, output.entropy_N, row)
            else:
                loss, report = grpo_loss(
                    output.logprob_N,
                    output.entropy_N,
                    row,
                    self.cfg.grpo,
                    old_N=old[i],
                    reference_N=reference[i],
                    off_policy=self.cfg.rollout.max_staleness > 0,
                    text_N=output.text_logprob_N,
                )
            if output.auxiliary is not None:  # of a policy that draws
                loss, report = with_masks(loss, report, output.auxiliary)
            sums.append(report)
            loss = must_fail(loss, output.logprob_N)
            self.engine.backward(
                loss * self.place.ranks
            )  # DeepSpeed takes the mean over ranks; ours is a sum
        lr = optimizer.learning_rate(self.updates, self.total, self.cfg.learner)
        norm = optimizer.step(self.engine, lr)
        self.updates += 1
        return join(sums), norm, lr

    def publish(self, version: int) -> WeightVersion | None:
        """The whole weights in the object store, from rank 0; None from the others.

        With a GPU backend only their description: their bytes go when they are taken.
        """
        from actors import optimizer
        from cluster.weights import publish

        if self.sender is not None:
            return WeightVersion(
                version, *optimizer.describe(self.engine), checksum="", payload=None
            )
        state = optimizer.whole_state(self.engine)
        return publish(version, state) if self.place.rank == 0 else None

    def head(self) -> dict[str, np.ndarray]:
        """The mask head's weights, from rank 0."""
        from actors import optimizer

        return optimizer.head_state(self.engine)

    def connect(self, master: dict[str, Any]) -> None:
        """Rank 0, nccl: joins the engines' process group."""
        self.sender.connect(master)

    def send(self) -> None:
        """nccl: broadcasts the weights. ipc, without an engine on this GPU: takes part in gathering them."""
        from actors import optimizer

        self.sender.send(optimizer.whole_tensors(self.engine))

    def next_message(self) -> dict[str, Any] | None:
        """ipc: where the next buffer of weights lies, once the last is loaded; None after all."""
        from actors import optimizer

        if self.messages is None:
            largest = optimizer.largest_bytes(self.engine)
            self.messages = self.sender.messages(optimizer.whole_tensors(self.engine), largest)
        message = next(self.messages, None)
        if message is None:
            self.messages = None
        return message

    def save(self, folder: str) -> None:
        from actors import optimizer

        optimizer.save(self.engine, Path(folder), self.folder, self.updates)

    def load(self, folder: str) -> None:
        from actors import optimizer

        self.updates = optimizer.load(self.engine, Path(folder))

    def close(self) -> None:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def join_ranks(place: Place, device: str) -> None:
    """The process group, by the environment variables that DeepSpeed reads."""
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.ranks),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_ranks),
        "MASTER_ADDR": place.master[0],
        "MASTER_PORT": str(place.master[1]),
    }
    import deepspeed

    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
