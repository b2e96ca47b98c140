"""Masks by a finished policy, for jobs without a learner: evaluation of a folder, a video of one's own.

In training the learner's ranks draw: they alone have the newest mask head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.drawing import Asked, Drawn, Found, asked, by_episode, draw_rows, forest_of
from cluster.placement import Placement
from cluster.refs import MediaRef, load_media, results
from configs.load import resolve
from configs.schema import Config
from core import batch
from core.batch import GroupBatch, ImageLayout
from core.types import Episode, Video


class Painter:
    """A policy with its mask head and nothing to train it with."""

    def __init__(self, cfg: Config, device: str) -> None:
        import torch

        from actors import policies
        from models.policy.pixels import Pixels

        if device == "cpu":
            torch.set_num_threads(1)
        folder = resolve(cfg.policy.path)
        plain = replace(
            cfg, grpo=replace(cfg.grpo, kl_coef=0.0), learner=replace(cfg.learner, lora_rank=0)
        )
        self.policy = policies.load(plain, folder, device)[0]
        self.pixels = Pixels(folder)

    def layout(self) -> ImageLayout:
        return self.policy.layout

    def draw(self, rows: list[GroupBatch], media: dict[int, MediaRef], wanted: Asked) -> Found:
        return draw_rows(self.policy, self.pixels, rows, load_media(media), wanted)


class DrawingPool:
    """Driver side of actors that draw with the same weights (`Painter`, `actors.learner.Learner`)."""

    cfg: Config
    ranks: Sequence[Any]
    layout: ImageLayout

    def draw(
        self,
        videos: Sequence[Video],
        episodes: Sequence[Sequence[Episode]],
        media: Sequence[MediaRef],
        roles: Iterable[str] = (),
    ) -> list[Drawn]:
        """The masks that the episodes of some groups ask for (with `roles`: those of these roles), one forward pass
        for all; `videos[i]` and `media[i]` are of group i."""
        wanted = asked(videos, episodes, roles)
        forest = forest_of(episodes)
        found: Found = {}
        if forest and wanted.masks:
            rows = batch.rows_of_ranks(
                forest, len(self.ranks), self.cfg.learner.row_tokens, self.layout
            )
            calls = [
                rank.draw.remote(
                    share, {g: media[g] for row in share for g in row.groups}, wanted.share(share)
                )
                for rank, share in zip(self.ranks, rows, strict=True)
            ]
            for part in results(calls):
                found |= part
        return by_episode(found, episodes)


class PainterPool(DrawingPool):
    """One `Painter`. It shares a GPU with the segmenters: an episode is one short forward pass."""

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        options = placement.options("segmenter")
        self.ranks = [ray.remote(Painter).options(**options).remote(cfg, placement.device)]
        [self.layout] = results([rank.layout.remote() for rank in self.ranks])

    def close(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
