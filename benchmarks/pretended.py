"""Engines and ranks that hold no model, for benchmarks of what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from actors.objective import RowStats, StepReport
from cluster.refs import Handle
from cluster.watch import Watch
from cluster.weights import WeightVersion
from configs.schema import Config


class PretendedEngine:
    """Takes versions of the weights without looking at them."""

    def __init__(self) -> None:
        self.newest = 0

    async def take(self, weights: WeightVersion) -> int:
        self.newest = weights.version
        return self.newest

    async def version(self) -> int:
        return self.newest


class PretendedRank:
    """Makes optimizer steps and publishes versions without any weights.

    Attributes:
        seconds: time that it has learned since its last step.
    """

    # What a version says about its tensors: names, types, shapes and checksums.
    described: tuple[Any, Any, Any, Any] = ((), (), (), ())

    def __init__(self) -> None:
        self.seconds = 0.0

    def finish(self, divisor: float) -> list[StepReport]:
        seconds = self.seconds
        self.seconds = 0.0
        return [StepReport(RowStats(), 1.0, 0.0, 1.0, seconds)]

    def publish(self, version: int, wanted: str) -> tuple[WeightVersion, None]:
        return WeightVersion(version, *self.described), None

    def address(self) -> tuple[str, int]:
        return "", 0


class PretendedLearner(LearnerPool):
    """The pool of the learner, with ranks of that kind."""

    def __init__(self, cfg: Config, watch: Watch, ranks: Sequence[Handle[Any]]) -> None:
        self.cfg = cfg
        self.watch = watch
        self.whereabouts = []
        self.bad_steps = 0
        self.stored = None
        self.ranks = [cast(Handle[LearnerActor], rank) for rank in ranks]


class Silent:
    """A display and a tracker that show nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...
