"""The actor pools of a run. Each pool starts when it is first used; all are closed together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import TracebackType

from actors.drawer import DrawerPool
from actors.learner_pool import LearnerPool
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from actors.segmenter import SegmenterPool
from configs.schema import Config
from ray_jobs.driver.beside import Beside
from ray_jobs.driver.elastic import Elastic
from ray_jobs.driver.run import Run
from ray_jobs.driver.saving import Saving


class Pools:
    """The actors of one run.

    Args:
        run: The run; its configuration gives the number of actors.
        reward_splits: The reward actors read the ground truth of these splits.
        title: Begins the names of phases on the display.
        learns: Whether the rollout actors will take weights of the learner.

    Attributes:
        beside: The evaluations beside a training, which have pools of their own; None without any.
    """

    def __init__(
        self, run: Run, reward_splits: Sequence[str], title: str = "", learns: bool = False
    ) -> None:
        self._learns = learns
        self._cfg = run.cfg
        self._reward_cfg = run.cfg
        self._placement = run.placement
        self._progress = run.progress
        self._title = title
        self._checkpoints = run.record.checkpoints
        self._reward_splits = list(dict.fromkeys(reward_splits))
        self.elastic = Elastic(run.cfg, run.placement, run.progress)
        self.beside: Beside | None = None

    @cached_property
    def rollouts(self) -> RolloutPool:
        with self._progress.phase(f"{self._title}start: rollout engines"):
            pool = RolloutPool(self._cfg, self._placement, self._learns)
            # The phase lasts until the first engines are up, and their errors appear here. The
            # others join when they are.
            pool.ready(self._cfg.rollout.min_workers)
        self.elastic.keep(pool)
        return pool

    @cached_property
    def rewards(self) -> RewardPool:
        return RewardPool(self._reward_cfg, self._placement, self._reward_splits)

    @cached_property
    def segmenters(self) -> SegmenterPool:
        return SegmenterPool(self._cfg, self._placement)

    @cached_property
    def drawers(self) -> DrawerPool:
        with self._progress.phase(f"{self._title}start: drawer"):
            return DrawerPool(self._cfg, self._placement)

    @cached_property
    def learner(self) -> LearnerPool:
        with self._progress.phase(f"{self._title}start: learners"):
            return LearnerPool(self._cfg, self._placement)

    @cached_property
    def saving(self) -> Saving:
        """The checkpoints that the learner writes beside training."""
        return Saving(self._checkpoints, self._progress.note)

    def score_against(self, cfg: Config, splits: Sequence[str]) -> None:
        """Let the reward actors read the ground truth of other splits, now or when they start.

        Args:
            cfg: As that of the run, apart from its data.
            splits: Splits of `cfg.data`.
        """
        self._reward_cfg = cfg
        self._reward_splits = list(dict.fromkeys(splits))
        if "rewards" in self.__dict__:
            self.rewards.read(cfg, self._reward_splits)

    def close_learner(self) -> None:
        """End the learner's ranks, if they run, and free their memory."""
        if "learner" in self.__dict__:
            self.learner.close()
            del self.learner

    def drop_learner(self) -> None:
        """End the ranks that a death left behind; the next use of the learner starts others."""
        if "learner" in self.__dict__:
            self.learner.kill()
            self.saving.abandon()
            del self.learner

    def close(self) -> None:
        """Kill the actors of all pools but the learner.

        The learner's ranks leave their process group together, which may not work after an error.
        `close_learner` ends them; without it they end with Ray.
        """
        if self.beside is not None:
            self.beside.close()
        self.saving.abandon()
        self.elastic.close()
        for name in ("rollouts", "rewards", "segmenters", "drawers"):
            if name in self.__dict__:
                self.__dict__[name].close()

    def __enter__(self) -> Pools:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
