"""Learner actors: whole groups in, one optimizer step out, the same for any number of ranks.

`LearnerPool` lives in the driver: it turns groups into rows with token weights that are counted over the whole batch,
and gives every rank the same number of rows. `Learner` is one DeepSpeed rank: it adds up the gradients of its rows.
Neither knows how episodes were played or scored. A policy that draws masks itself draws here, with the newest weights,
and adds losses of its own to ours (`actors.drawing`).
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.drawing import Asked, Drawn, Found, asked, by_episode, draw_rows, forest_of
from actors.objective import Sums, grpo_loss, imitation_loss, join, means, must_fail, with_masks
from cluster.start import actor_options, device_of
from cluster.weights import WeightVersion
from configs.load import resolve
from configs.schema import Config
from core import batch, grpo
from core.batch import GroupBatch, ImageLayout
from core.types import Episode, Group, MediaTable, Update, Video

MediaRef = Any  # a Ray ObjectRef of a MediaTable, or the MediaTable itself
Report = tuple[Sums, float | None, float]  # of one step: this rank's sums, gradient norm (None: skipped), learning rate


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
        return ("127.0.0.1" if os.environ.get("GLOO_SOCKET_IFNAME") == "lo" else ray.util.get_node_ip_address()), port

    def start(self, cfg: Config, place: Place, total_updates: int) -> ImageLayout:
        """Loads the policy (and the reference, if the KL term is on) and joins the other ranks."""
        import torch

        self.cfg, self.place, self.total, self.updates = cfg, place, total_updates, 0
        self.device = device_of(cfg)
        if self.device == "cpu":
            torch.set_num_threads(1)
        self.sender: Any = None
        self.messages: Any = None  # ipc: of the version that is being taken
        if cfg.cluster.weight_backend != "object_store":
            from models import weight_senders

            self.sender = weight_senders.make(cfg.cluster.weight_backend)
        join_ranks(place, self.device)
        from actors import optimizer, policies
        from models.policy import Pixels

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
        self, rows: list[GroupBatch], media: dict[int, MediaRef], imitate: bool, masks: Asked | None = None
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
            logprob_N, entropy_N, *more = self.engine(row, *patches[i], temperature, *extras[i])
            if old[i] is None:  # of the very same forward: on policy the ratio is exactly 1
                old[i] = logprob_N.detach()
            if imitate:
                loss, report = imitation_loss(logprob_N, entropy_N, row)
            else:
                loss, report = grpo_loss(
                    logprob_N, entropy_N, row, self.cfg.grpo, old_N=old[i], reference_N=reference[i],
                    off_policy=self.cfg.rollout.max_staleness > 0, text_N=more[1] if more else None,
                )  # fmt: skip
            if more:  # of a policy that draws
                loss, report = with_masks(loss, report, more[0])
            sums.append(report)
            loss = must_fail(loss, logprob_N)
            self.engine.backward(loss * self.place.ranks)  # DeepSpeed takes the mean over ranks; ours is a sum
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
            return WeightVersion(version, *optimizer.describe(self.engine), checksum="", payload=None)
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


def load_media(media: dict[int, MediaRef]) -> MediaTable:
    """The tables of some groups as one: digests name contents, so equal keys hold equal pixels."""
    found: MediaTable = {}
    for ref in media.values():
        found |= ref if isinstance(ref, dict) else ray.get(ref)
    return found


class LearnerPool:
    """Driver side. `learn`, `imitate`, `publish`, `save`, `load` and `close` act on all ranks at once."""

    def __init__(self, cfg: Config, total_updates: int = 0) -> None:
        """`total_updates`: length of the learning-rate schedule; by default that of the training run."""
        self.cfg = cfg
        self.bad_steps = 0  # in a row: skipped because loss or gradient was not finite
        ranks = range(cfg.learner.world_size)
        self.ranks = [ray.remote(Learner).options(**actor_options(cfg, "learner", rank)).remote() for rank in ranks]
        total = total_updates or cfg.train.steps * cfg.learner.optimizer_steps
        hosts = ray.get([rank.address.remote() for rank in self.ranks])
        self.places = places(hosts, device_of(cfg))
        layouts = [r.start.remote(cfg, place, total) for r, place in zip(self.ranks, self.places, strict=True)]
        self.layout: ImageLayout = results(layouts)[0]

    def draw(
        self,
        videos: Sequence[Video],
        episodes: Sequence[Sequence[Episode]],
        media: Sequence[MediaRef],
        roles: Iterable[str] = (),
    ) -> list[Drawn]:
        """The masks that the episodes of some groups ask for (with `roles`: those of these roles), one forward pass
        for all; `videos[i]` and `media[i]` are of group i."""
        return draw_with(self.ranks, self.cfg.learner.row_tokens, self.layout, videos, episodes, media, roles)

    def learn(self, groups: Sequence[Group], media: Sequence[MediaRef], masks: Asked | None = None) -> Update:
        """GRPO on whole, judged groups (`core.grpo.judge`); `media[i]` holds the pixels of group i.

        Groups without any advantage carry no gradient and are not computed, but they count in the mean; with a KL or
        entropy term or with losses of `masks` they are computed too. If none is left, no step is made.
        """
        cfg = self.cfg.grpo
        credits = [
            grpo.credit(g, per_turn=cfg.per_turn_credit, std=cfg.advantage_std, eps=cfg.advantage_eps) for g in groups
        ]
        dense = cfg.kl_coef > 0 or cfg.entropy_coef != 0
        dense = dense or (masks is not None and any(mask.weight for mask in masks.masks))
        useful = [dense or any(a != 0.0 for turns in credit for a in turns) for credit in credits]
        forest = self._forest(groups, credits, cfg.aggregation, useful)
        return self._run(forest, media, masks, imitate=False, skipped_groups=useful.count(False))

    def imitate(self, demonstrations: Sequence[Group], media: Sequence[MediaRef], masks: Asked | None = None) -> Update:
        """Supervised fine-tuning: cross-entropy on every completion token, mean over the tokens of the batch.

        A demonstration is a group whose turns hold the ideal completion; log-probs, rewards and advantages are unused.
        """
        credits = [[(0.0,) * len(e.turns) for e in g.episodes] for g in demonstrations]
        forest = self._forest(demonstrations, credits, "token_mean", [True] * len(demonstrations))
        return self._run(forest, media, masks, imitate=True, skipped_groups=0)

    def _forest(
        self, groups: Sequence[Group], credits: Sequence[Any], aggregation: str, useful: Sequence[bool]
    ) -> list[batch.Tree]:
        counts = [grpo.trained_tokens(g) for g in groups]
        longest = self.cfg.rollout.max_model_len
        flat = grpo.token_weights([n for c in counts for n in c], aggregation, max_tokens=longest)
        forest: list[batch.Tree] = []
        first = 0
        for i, group in enumerate(groups):
            weights = flat[first : first + len(group.episodes)]
            if useful[i]:
                forest += batch.trees(group, i, credits[i], weights, first)
            first += len(group.episodes)
        return forest

    def _run(
        self,
        forest: list[batch.Tree],
        media: Sequence[MediaRef],
        masks: Asked | None,
        imitate: bool,
        skipped_groups: int,
    ) -> Update:
        if not forest:
            nothing = {"tokens_sum": 0.0}
            metrics = means(nothing, nothing) | {"skipped_groups": skipped_groups, "skipped_steps": 0.0}
            return Update(0.0, 0.0, metrics | {"bad_steps": float(self.bad_steps)})
        rows = batch.rows_of_ranks(forest, len(self.ranks), self.cfg.learner.row_tokens, self.layout)
        calls = [
            rank.learn.remote(
                share, {g: media[g] for row in share for g in row.groups}, imitate, masks and masks.share(share)
            )
            for rank, share in zip(self.ranks, rows, strict=True)
        ]
        reports = list(zip(*results(calls), strict=True))  # [optimizer step][rank]
        steps = [join([sums for sums, _, _ in report]) for report in reports]
        norms = [report[0][1] for report in reports]
        done = [n for n in norms if n is not None]
        for norm in norms:
            self.bad_steps = self.bad_steps + 1 if norm is None else 0
        metrics = means(steps[0], steps[-1]) | {
            "skipped_groups": float(skipped_groups),
            "skipped_steps": float(norms.count(None)),  # loss or gradient was not finite
            "bad_steps": float(self.bad_steps),  # ... in a row, also over batches
            "lr": reports[-1][0][2],
        }
        loss = float(np.mean([s["loss_sum"] for s in steps]))
        return Update(loss, float(np.mean(done)) if done else float("nan"), metrics)

    def publish(self, version: int) -> WeightVersion:
        """The current weights in the object store, ready for rollout actors to pull.

        With a GPU backend the version names the ranks as its senders: it must be taken before they learn on.
        """
        weights: WeightVersion = results([rank.publish.remote(version) for rank in self.ranks])[0]
        return weights if weights.payload is not None else replace(weights, senders=tuple(self.ranks))

    def head(self) -> dict[str, np.ndarray]:
        """The weights of the mask head as they are now, for segmenters that draw anew while they track."""
        weights: dict[str, np.ndarray] = results([rank.head.remote() for rank in self.ranks])[0]
        return weights

    def save(self, folder: Path | str) -> None:
        """Policy, optimizer and random states into `folder`, which all ranks can reach."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        results([rank.save.remote(str(Path(folder).resolve())) for rank in self.ranks])

    def load(self, folder: Path | str) -> None:
        """Goes on from a checkpoint. Raises ValueError if it does not fit this policy or this number of ranks."""
        results([rank.load.remote(str(Path(folder).resolve())) for rank in self.ranks])

    def close(self) -> None:
        """Ends all ranks."""
        ray.get([rank.close.remote() for rank in self.ranks])
        for rank in self.ranks:
            ray.kill(rank)


def draw_with(
    ranks: Sequence[Any],
    row_tokens: int,
    layout: ImageLayout,
    videos: Sequence[Video],
    episodes: Sequence[Sequence[Episode]],
    media: Sequence[MediaRef],
    roles: Iterable[str],
) -> list[Drawn]:
    """`LearnerPool.draw` with any actors that draw."""
    wanted, forest = asked(videos, episodes, roles), forest_of(episodes)
    found: Found = {}
    if forest and wanted.masks:
        rows = batch.rows_of_ranks(forest, len(ranks), row_tokens, layout)
        calls = [
            rank.draw.remote(share, {g: media[g] for row in share for g in row.groups}, wanted.share(share))
            for rank, share in zip(ranks, rows, strict=True)
        ]
        for part in results(calls):
            found |= part
    return by_episode(found, episodes)


def results(refs: list[Any]) -> list[Any]:
    """`ray.get`, where a user's mistake (ValueError) in an actor is raised as the plain error it was."""
    try:
        return ray.get(refs)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise


def places(hosts: Sequence[tuple[str, int]], device: str) -> list[Place]:
    """Ranks in the order of `hosts` (address, free port); the first one is the master.

    On GPU Ray shows each rank its own device only, so that every local rank is 0.
    """
    found = []
    for rank, (host, _) in enumerate(hosts):
        before = sum(h == host for h, _ in hosts[:rank])
        local = (0, 1) if device == "cuda" else (before, sum(h == host for h, _ in hosts))
        found.append(Place(rank, len(hosts), *local, master=hosts[0]))
    return found
