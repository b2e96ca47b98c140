"""The driver's side of a batch that the learner takes group by group, while others still play.

    batch = learner.begin()
    for group, video in arriving:
        batch.add([group], [video])
    update = batch.finish()

Gradients are added up in the order of the groups. Nothing that a rank computes depends on groups
to come: what needs counts of the whole batch is divided at the end (`core.grpo.batch_divisor`).
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from actors.drawer import sources_of_rows
from actors.drawing import DrawBatch
from actors.learner import LearnerActor
from cluster.refs import Ref
from core import batch, grpo
from core.batch import Filling, Tree
from core.drawing.requests import DrawRequest, with_loss_weights
from core.types import Group, MediaSource, Update, Video

if TYPE_CHECKING:
    from actors.learner_pool import LearnerPool

# Advantages of a group: of each turn of each episode.
Credit = Sequence[Sequence[float]]

# Calls of rows that a rank may have before it: one that it computes, and one that it prepares. With
# more a stop would have to wait for them.
AHEAD = 2
# Seconds between two looks for lost ranks, while groups come one after another.
LOOK_S = 0.25


@dataclass
class Sent:
    """Rows that were sent to the ranks.

    Attributes:
        calls: one of each rank.
        under_way: those of the calls that had not ended at the last look.
    """

    calls: list[Ref[None]]
    under_way: list[Ref[None]]


class OpenBatch:
    """A batch that is being learned."""

    def __init__(self, pool: LearnerPool, newest: int, imitate: bool) -> None:
        """Open the batch of `LearnerPool.begin`."""
        self.pool = pool
        self.newest = newest
        self.imitate = imitate
        self.aggregation = "token_mean" if imitate else pool.cfg.grpo.aggregation
        # Trained tokens of each episode so far, and where the images of each group come from.
        self.counts: list[int] = []
        self.sources: list[MediaSource] = []
        self.skipped_groups = 0
        self.is_begun = False
        # Mask targets so far.
        self.requests: list[DrawRequest] = []
        self.frames: dict[str, tuple[Video, int]] = {}
        self.has_masks = False
        # Trees of the groups that wait for the end of the batch (`_must_wait`).
        self.held: list[list[Tree]] = []
        self.filling = Filling(len(pool.ranks), pool.cfg.learner.row_tokens)
        # What was sent to the ranks, oldest first.
        self.sent: deque[Sent] = deque()
        # When it was looked at.
        self.looked_s = 0.0

    def add(
        self,
        groups: Sequence[Group],
        sources: Sequence[MediaSource],
        masks: DrawBatch | None = None,
    ) -> None:
        """Add whole groups, judged (`core.grpo.judge`) or demonstrated.

        A group without any advantage carries no policy gradient. It is not computed, but it counts
        in the mean. With a KL or entropy term, or with losses of `masks`, it is computed too.

        Args:
            sources: where the images of each group come from. They do not travel: a rank reads
                frames of a video out of its node's store.
            masks: mask targets of these groups (`actors.drawing.mask_targets`).

        Raises:
            LearnerLost: a rank died.
        """
        is_weighted = masks is not None and any(request.weight for request in masks.requests)
        if masks is not None:
            self._add_masks(masks)
        for group, source in zip(groups, sources, strict=True):
            trees = self._trees(group, is_weighted)
            self.sources.append(source)
            self.held.append(trees)
        if not self._must_wait():
            self._hand_on()
        self._look(most=AHEAD)

    def finish(self) -> Update:
        """Make the optimizer steps on the batch. If no group is left to learn from, make none.

        Raises:
            LearnerLost: a rank died.
        """
        divisor = grpo.batch_divisor(
            self.counts, self.aggregation, max_tokens=self.pool.cfg.rollout.max_model_len
        )
        if self._must_wait():
            # The ranks divide by the count of the tokens; these means have counts of their own.
            loss = self.pool.cfg.mask.loss * divisor
            self.requests = with_loss_weights(self.requests, loss)
        self._hand_on()
        rest = self.filling.rest()
        if rest:
            self._send(rest)
        if not self.is_begun:
            return self.pool.no_update(self.skipped_groups)

        # No rank may step before the rows of all others are sound.
        self._look(most=0)
        reports = self.pool.call_all("learned", LearnerActor.finish, divisor)
        return self.pool.combine(reports, self.skipped_groups)

    def _must_wait(self) -> bool:
        """Return True if the groups must wait for the end of the batch.

        A mask loss is a mean over the masks of a role in the whole batch (docs/spec/videoseg_o3.md,
        Logit calibration), another count than that of the tokens.
        """
        return any(request.weight for request in self.requests)

    def _add_masks(self, masks: DrawBatch) -> None:
        """Take the mask targets of the next groups, numbered behind those before."""
        first = len(self.counts)
        for request in masks.requests:
            self.requests.append(replace(request, episode=first + request.episode))
        self.frames.update(masks.frames)
        self.has_masks = True

    def _trees(self, group: Group, is_weighted: bool) -> list[Tree]:
        """Return the trees of the next group; none if there is nothing to learn from."""
        number = len(self.sources)
        first = len(self.counts)
        counts = grpo.trained_tokens(group)
        # A group left out still takes its numbers of episodes, which name them in the batch.
        self.counts += counts
        credit = self._credit(group)
        if not (self.imitate or is_weighted or self._is_useful(credit)):
            self.skipped_groups += 1
            return []
        shares = grpo.token_shares(counts, self.aggregation)
        return batch.trees(group, number, credit, shares, first)

    def _credit(self, group: Group) -> Credit:
        if self.imitate:
            return [(0.0,) * len(episode.turns) for episode in group.episodes]
        cfg = self.pool.cfg.grpo
        return grpo.credit(
            group, per_turn=cfg.per_turn_credit, std=cfg.advantage_std, eps=cfg.advantage_eps
        )

    def _is_useful(self, credit: Credit) -> bool:
        cfg = self.pool.cfg.grpo
        if cfg.kl_coef > 0 or cfg.entropy_coef != 0:
            return True
        return any(advantage != 0.0 for advantage in itertools.chain.from_iterable(credit))

    def _hand_on(self) -> None:
        """Send what fills a row of every rank."""
        for trees in self.held:
            for forest in self.filling.add(trees):
                self._send(forest)
        self.held.clear()

    def _send(self, forest: list[Tree]) -> None:
        """Give every rank its rows; return at once."""
        targets = None
        if self.has_masks:
            targets = DrawBatch(tuple(self.requests), self.frames)
        calls: list[Ref[None]] = []
        for rank, rows in zip(self.pool.ranks, self.pool.deal(forest), strict=True):
            sources = sources_of_rows(rows, self.sources)
            masks = targets.share(rows) if targets is not None else None
            arguments = (rows, sources, self.newest, self.imitate, masks)
            calls.append(rank.call_packed(LearnerActor.add, *arguments))
        self.sent.append(Sent(calls, calls))
        self.is_begun = True

    def _look(self, most: int) -> None:
        """Wait until at most so many calls are under way, and look for lost ranks in all of them.

        Raises:
            LearnerLost: a rank died.
        """
        now = time.monotonic()
        if len(self.sent) <= most and now - self.looked_s < LOOK_S:
            return
        self.looked_s = now
        while len(self.sent) > most:
            self.pool.results(self.sent[0].calls, "learned")
            self.sent.popleft()
        for sent in self.sent:
            sent.under_way = self.pool.look(sent.calls, sent.under_way, "learned")
