"""How a run's time is split between playing and learning, from measured seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Stages of a step beside playing: they wait for no engine.
LEARNING = ("mask", "score", "learn", "publish")


@dataclass(frozen=True)
class Balance:
    """Mean seconds of a step.

    Attributes:
        play_s: from the first group of a step handed out to its last one finished.
        learn_s: all other stages, as the driver waited for them.
        engines: engines that played, weighted by the seconds of each step.
    """

    play_s: float
    learn_s: float
    engines: float

    @property
    def workers(self) -> float:
        """The number of engines with which playing a step takes as long as learning one.

        engines x play_s / learn_s: groups are independent, so twice the engines play a step in half
        the time, apart from its longest episode. More engines than this would wait for the learner
        with rollout.max_staleness=1; without it the stages take turns, and the number says where
        the larger part of the time goes.
        """
        return self.engines * self.play_s / max(self.learn_s, 1e-3)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures as metrics of a step."""
        return {
            "balance/play_s": self.play_s,
            "balance/learn_s": self.learn_s,
            "balance/engines": self.engines,
            "balance/workers": self.workers,
        }

    def __str__(self) -> str:
        share = self.play_s / max(self.play_s + self.learn_s, 1e-9)
        whole = max(1, math.ceil(self.workers))
        return (
            f"a step plays for {self.play_s:.1f} s and learns for {self.learn_s:.1f} s "
            f"({share:.0%} play) with {self.engines:.3g} rollout workers; {whole} would balance it"
        )


def of_step(play_s: float, engines: float, seconds: Mapping[str, float]) -> Balance:
    """Return the balance of one step; `seconds` are those of its stages."""
    learn_s = sum(seconds.get(stage, 0.0) for stage in LEARNING)
    return Balance(play_s, learn_s, engines)


def of_steps(lines: Iterable[Mapping[str, Any]]) -> Balance | None:
    """Return the balance over the steps of metrics.jsonl; None without any that was measured."""
    measured = [line for line in lines if "balance/play_s" in line]
    if not measured:
        return None
    play_s = sum(line["balance/play_s"] for line in measured)
    learn_s = sum(line["balance/learn_s"] for line in measured)
    work = sum(line["balance/play_s"] * line["balance/engines"] for line in measured)
    count = len(measured)
    return Balance(play_s / count, learn_s / count, work / max(play_s, 1e-9))
