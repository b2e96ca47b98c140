"""Drawing of the policy's masks: actors, and their pools on the driver.

In training the learner's ranks draw, because they alone have the newest mask head. A job without
a learner, such as the evaluation of a finished policy, starts a `Drawer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from actors.drawing import (
    DrawBatch,
    Drawn,
    DrawnMasks,
    draw_batch,
    draw_rows,
    forest_to_draw,
    masks_by_episode,
)
from actors.pool import Pool
from cluster.lost import cause
from cluster.placement import Device, Placement
from cluster.refs import Handle, Ref, results, start_actor
from configs.load import resolve
from configs.schema import Config
from core import batch
from core.batch import Tree
from core.types import Episode, MediaSource, Video


class Draws(Protocol):
    """Actors with a policy that has a mask head."""

    def draw(
        self, rows: list[list[Tree]], sources: Mapping[int, MediaSource], requests: DrawBatch
    ) -> DrawnMasks: ...


A = TypeVar("A", bound=Draws)
R = TypeVar("R")


class Drawer:
    """A policy with its mask head, and nothing to train it with."""

    def __init__(self, cfg: Config, device: Device) -> None:
        import torch

        from actors import policies
        from models.policy.pixels import Pixels

        if device == "cpu":
            torch.set_num_threads(1)
        folder = resolve(cfg.policy.path)
        untrained = replace(
            cfg, grpo=replace(cfg.grpo, kl_coef=0.0), learner=replace(cfg.learner, lora_rank=0)
        )
        self.policy, _ = policies.load(untrained, folder, device)
        self.pixels = Pixels(folder)

    def draw(
        self, rows: list[list[Tree]], sources: Mapping[int, MediaSource], requests: DrawBatch
    ) -> DrawnMasks:
        """Draw the masks of finished episodes."""
        return draw_rows(self.policy, self.pixels, rows, sources, requests)


@dataclass(frozen=True)
class DrawTask:
    """The trees of rows to draw masks for, the origin of their images, and the masks' requests."""

    rows: list[list[Tree]]
    sources: dict[int, MediaSource]
    requests: DrawBatch


class DrawingPool(Generic[A]):
    """Actors with the same weights of a policy (`Drawer`, `actors.learner.LearnerActor`)."""

    def __init__(self, cfg: Config, ranks: Sequence[Handle[A]]) -> None:
        self.cfg = cfg
        self.ranks = ranks

    def draw(
        self,
        videos: Sequence[Video],
        episodes: Sequence[Sequence[Episode]],
        roles: Iterable[str] = (),
        sources: Sequence[MediaSource] = (),
    ) -> list[Drawn]:
        """Draw the masks of the episodes of some groups, in one forward pass over all of them.

        Args:
            videos: the video of each group.
            roles: draw masks of these roles only; empty draws all.
            sources: where the images of each group come from, if not from its video.
        """
        requests = draw_batch(videos, episodes, roles)
        forest = forest_to_draw(episodes)
        masks: DrawnMasks = {}
        if forest and requests.requests:
            shares = []
            for rows in self.deal(forest):
                shown = sources_of_rows(rows, sources or videos)
                shares.append(DrawTask(rows, shown, requests.share(rows)))
            for part in self.draw_shares(shares):
                masks |= part
        return masks_by_episode(masks, episodes)

    def draw_shares(self, shares: Sequence[DrawTask]) -> list[DrawnMasks]:
        """Let each actor draw its share."""
        calls = []
        for rank, share in zip(self.ranks, shares, strict=True):
            calls.append(rank.call(Draws.draw, share.rows, share.sources, share.requests))
        return self.results(calls, "drew masks")

    def results(self, calls: Sequence[Ref[R]], work: str) -> list[R]:
        """Wait for a call of each actor.

        Args:
            work: what they do, for the message of an error: "drew masks".
        """
        return results(calls)

    def deal(self, forest: Sequence[Tree]) -> list[list[list[Tree]]]:
        """Pack trees into rows, and deal the same number of rows to every rank."""
        return batch.deal(forest, len(self.ranks), self.cfg.learner.row_tokens)

    def close(self) -> None:
        """End all actors."""
        for rank in self.ranks:
            rank.kill()


def sources_of_rows(
    rows: Sequence[Sequence[Tree]], sources: Sequence[MediaSource]
) -> dict[int, MediaSource]:
    """Return where the images of some rows come from, by the number of the group."""
    found: dict[int, MediaSource] = {}
    for row in rows:
        for tree in row:
            found[tree.group] = sources[tree.group]
    return found


class Drawers(Pool[Drawer, DrawTask, DrawnMasks]):
    """One `Drawer`, started again if it is lost.

    It shares a GPU with the segmenters: an episode is one short forward pass.
    """

    kind = "drawer"

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        self.placement = placement
        super().__init__(1, watch=placement.watch)

    def start(self, number: int) -> Handle[Drawer]:
        options = self.placement.options("drawer", self.seats[number])
        return start_actor(Drawer, options, self.cfg, self.placement.device)

    def send(self, worker: Handle[Drawer], task: DrawTask) -> Ref[DrawnMasks]:
        return worker.call(Drawer.draw, task.rows, task.sources, task.requests)

    def give_up(self, task: DrawTask, error: Exception) -> DrawnMasks:
        raise RuntimeError(
            f"a drawer died {self.attempts} times at the same episodes; the last time: "
            f"{cause(error)}"
        ) from error


class DrawerPool(DrawingPool[Drawer]):
    """The drawing of a job without a learner."""

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.drawers = Drawers(cfg, placement)
        super().__init__(cfg, list(self.drawers.workers.values()))

    def draw_shares(self, shares: Sequence[DrawTask]) -> list[DrawnMasks]:
        """Let the drawer draw everything."""
        flights = [self.drawers.hand_out(share) for share in shares]
        return [self.drawers.wait_for(flight) for flight in flights]

    def close(self) -> None:
        """End the drawer."""
        self.drawers.close()
