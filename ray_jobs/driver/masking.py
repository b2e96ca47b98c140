"""How the masks of a run's episodes are made, as one of two strategies.

`PointingPolicy` names boxes and points, `DrawingPolicy` decodes masks at its own `[SEG]` tokens. A
job asks `make_masking` for the right one and does not distinguish them any further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.drawer import DrawingPool
from actors.drawing import REWARDED, DrawBatch, Drawn, mask_targets
from actors.reward import Scoring
from actors.rollout import Played
from configs.schema import Config
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.stages import StageTimer

PlayedGroups = Sequence[Played]
# One entry a group; None where the policy points.
GroupDrawings = Sequence[Drawn | None]

# Groups of an evaluation whose masks a policy draws in one forward pass, while others still play.
DRAWN_TOGETHER = 32


class Masking(Protocol):
    """The difference between pointing and drawing policies.

    Attributes:
        groups_together: An evaluation passes this many played groups to `draw` at once.
        portion: A training step passes this many played groups to `draw_step` at once.
    """

    groups_together: int
    portion: int

    def prepare_evaluation(self) -> None:
        """Bring the weights for making masks up to date."""

    def draw(self, groups: PlayedGroups) -> GroupDrawings:
        """Return all masks drawn by the policy, one entry a group; None from a pointing policy."""

    def score_early(self, split: str, group: Played) -> Scoring | None:
        """Start the scoring of a group as soon as it has been played, if its masks allow it."""

    def draw_step(self, groups: PlayedGroups, timer: StageTimer) -> GroupDrawings:
        """Return the drawn masks for training, one entry a group."""

    def score_step(
        self,
        split: str,
        groups: PlayedGroups,
        early: Sequence[Scoring | None],
        drawn: GroupDrawings,
    ) -> list[Scoring]:
        """Return the scoring of each group of a step, started early or now."""

    def targets(self, groups: PlayedGroups, drawn: GroupDrawings) -> DrawBatch | None:
        """Return the learner's targets for masks, if it learns from any."""

    def finish_learning(self) -> None:
        """Release the resources of training."""


class PointingPolicy:
    """The policy names boxes and points; a segmenter turns them into masks.

    A reward actor makes the masks of its own group, so a group is scored as soon as it has been
    played, and the loop has no masks to wait for.
    """

    groups_together = 1
    portion = 1

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def prepare_evaluation(self) -> None:
        return

    def draw(self, groups: PlayedGroups) -> GroupDrawings:
        return [None] * len(groups)

    def score_early(self, split: str, group: Played) -> Scoring | None:
        uid = group.sample.uid
        return self._pools.rewards.submit(split, uid, group.episodes, scored=group.scored)

    def draw_step(self, groups: PlayedGroups, timer: StageTimer) -> GroupDrawings:
        return [None] * len(groups)

    def score_step(
        self,
        split: str,
        groups: PlayedGroups,
        early: Sequence[Scoring | None],
        drawn: GroupDrawings,
    ) -> list[Scoring]:
        # All of them started early.
        return [scoring for scoring in early if scoring is not None]

    def targets(self, groups: PlayedGroups, drawn: GroupDrawings) -> DrawBatch | None:
        return None

    def finish_learning(self) -> None:
        # The last evaluation needs no learner, and may need its memory.
        self._pools.close_learner()


class DrawingPolicy:
    """The policy decodes masks at its own `[SEG]` tokens.

    One teacher-forced forward pass over finished episodes draws them. In training the learner's
    ranks do it, because they alone hold the newest mask head; they draw a few groups at once, while
    others still play.
    """

    groups_together = DRAWN_TOGETHER

    def __init__(self, cfg: Config, pools: Pools, training: bool) -> None:
        self._cfg = cfg
        self._pools = pools
        self._training = training
        # A group for each rank, always the same ones together.
        self.portion = cfg.learner.world_size

    @property
    def _drawers(self) -> DrawingPool:
        if self._training:
            return self._pools.learner
        return self._pools.drawers

    def prepare_evaluation(self) -> None:
        # With mask.redraw segmenters draw again while they track, with a mask head of their own.
        if self._training and self._cfg.mask.redraw:
            self._pools.segmenters.take_head(self._pools.learner.head())

    def draw(self, groups: PlayedGroups) -> GroupDrawings:
        return self._draw(groups, roles=())

    def score_early(self, split: str, group: Played) -> Scoring | None:
        return None

    def draw_step(self, groups: PlayedGroups, timer: StageTimer) -> GroupDrawings:
        with timer.stage("mask"):
            return self._draw(groups, roles=REWARDED)

    def score_step(
        self,
        split: str,
        groups: PlayedGroups,
        early: Sequence[Scoring | None],
        drawn: GroupDrawings,
    ) -> list[Scoring]:
        rewards = self._pools.rewards
        scorings = []
        for group, masks in zip(groups, drawn, strict=True):
            uid = group.sample.uid
            scoring = rewards.submit(split, uid, group.episodes, masks, group.scored)
            scorings.append(scoring)
        return scorings

    def targets(self, groups: PlayedGroups, drawn: GroupDrawings) -> DrawBatch | None:
        samples = [group.sample for group in groups]
        episodes = [group.episodes for group in groups]
        masks = [group_masks for group_masks in drawn if group_masks is not None]
        return mask_targets(samples, episodes, masks, self._cfg.mask)

    def finish_learning(self) -> None:
        # The last evaluation draws with the learner's mask head.
        return

    def _draw(self, groups: PlayedGroups, roles: Sequence[str]) -> list[Drawn]:
        videos = [group.sample.video for group in groups]
        episodes = [group.episodes for group in groups]
        return self._drawers.draw(videos, episodes, roles)


def make_masking(cfg: Config, pools: Pools, training: bool = False) -> Masking:
    """Return the strategy for the configured policy.

    Args:
        cfg: The configuration; the policy draws if `mask.token` is set.
        pools: The actors of the run.
        training: Draw with the learner's ranks instead of an actor with the finished policy.
    """
    if cfg.mask.token:
        return DrawingPolicy(cfg, pools, training)
    return PointingPolicy(pools)
