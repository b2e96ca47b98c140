"""The driver side of the learner: groups become rows with token weights that are counted over the whole batch, and
every rank (`actors.learner`) gets the same number of them. Knows neither how episodes were played nor how scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.drawing import Asked
from actors.learner import Learner, Place
from actors.objective import join, means
from actors.painter import DrawingPool
from cluster.placement import Placement
from cluster.refs import MediaRef, results
from cluster.weights import WeightVersion
from configs.schema import Config
from core import batch, grpo
from core.batch import ImageLayout
from core.types import Group, Update


class LearnerPool(DrawingPool):
    """All ranks. `learn`, `imitate`, `publish`, `save`, `load` and `close` act on all ranks at once."""

    def __init__(self, cfg: Config, placement: Placement, total_updates: int = 0) -> None:
        """`total_updates`: length of the learning-rate schedule; by default that of the training run."""
        self.cfg = cfg
        self.placement = placement
        self.bad_steps = 0  # in a row: skipped because loss or gradient was not finite
        ranks = range(cfg.learner.world_size)
        self.ranks = [
            ray.remote(Learner).options(**placement.options("learner", rank)).remote()
            for rank in ranks
        ]
        total = total_updates or cfg.train.steps * cfg.learner.optimizer_steps
        hosts = ray.get([rank.address.remote() for rank in self.ranks])
        self.places = places(hosts, placement.device)
        layouts = [
            r.start.remote(cfg, placement.device, place, total)
            for r, place in zip(self.ranks, self.places, strict=True)
        ]
        self.layout: ImageLayout = results(layouts)[0]

    def learn(
        self, groups: Sequence[Group], media: Sequence[MediaRef], masks: Asked | None = None
    ) -> Update:
        """GRPO on whole, judged groups (`core.grpo.judge`); `media[i]` holds the pixels of group i.

        Groups without any advantage carry no gradient and are not computed, but they count in the mean; with a KL or
        entropy term or with losses of `masks` they are computed too. If none is left, no step is made.
        """
        cfg = self.cfg.grpo
        credits = [
            grpo.credit(
                g, per_turn=cfg.per_turn_credit, std=cfg.advantage_std, eps=cfg.advantage_eps
            )
            for g in groups
        ]
        dense = cfg.kl_coef > 0 or cfg.entropy_coef != 0
        dense = dense or (masks is not None and any(mask.weight for mask in masks.masks))
        useful = [dense or any(a != 0.0 for turns in credit for a in turns) for credit in credits]
        forest = self._forest(groups, credits, cfg.aggregation, useful)
        return self._run(forest, media, masks, imitate=False, skipped_groups=useful.count(False))

    def imitate(
        self, demonstrations: Sequence[Group], media: Sequence[MediaRef], masks: Asked | None = None
    ) -> Update:
        """Supervised fine-tuning: cross-entropy on every completion token, mean over the tokens of the batch.

        A demonstration is a group whose turns hold the ideal completion; log-probs, rewards and advantages are unused.
        """
        credits = [[(0.0,) * len(e.turns) for e in g.episodes] for g in demonstrations]
        forest = self._forest(demonstrations, credits, "token_mean", [True] * len(demonstrations))
        return self._run(forest, media, masks, imitate=True, skipped_groups=0)

    def _forest(
        self,
        groups: Sequence[Group],
        credits: Sequence[Any],
        aggregation: str,
        useful: Sequence[bool],
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
            metrics = means(nothing, nothing) | {
                "skipped_groups": skipped_groups,
                "skipped_steps": 0.0,
            }
            return Update(0.0, 0.0, metrics | {"bad_steps": float(self.bad_steps)})
        rows = batch.rows_of_ranks(
            forest, len(self.ranks), self.cfg.learner.row_tokens, self.layout
        )
        calls = [
            rank.learn.remote(
                share,
                {g: media[g] for row in share for g in row.groups},
                imitate,
                masks and masks.share(share),
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
        return (
            weights if weights.payload is not None else replace(weights, senders=tuple(self.ranks))
        )

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
