"""How a run's time is split between playing and learning, from measured seconds.

Both go on at once, so their seconds overlap. What a step lasts longer than either is that side's
wait: for groups, for weights, or for the driver.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Stages of a step in which the learner works beside learning; the driver waits for it.
LEARNERS = ("mask", "publish")


@dataclass(frozen=True)
class Balance:
    """Mean seconds of a step.

    Attributes:
        play_s: from the first group of a step handed out to its last one finished.
        learn_s: seconds that the learner worked: it computed, drew masks, or published.
        engines: engines that played, weighted by the seconds of each step.
        step_s: seconds of the whole step, as the driver waited for its stages.
    """

    play_s: float
    learn_s: float
    engines: float
    step_s: float

    @property
    def workers(self) -> float:
        """The number of engines with which playing a step takes as long as learning one.

        engines x play_s / learn_s: groups are independent, so twice the engines play a step in half
        the time, apart from its longest episode. More engines than this would wait for the learner.
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
            "balance/step_s": self.step_s,
            "balance/engines_wait_s": max(0.0, self.step_s - self.play_s),
            "balance/learner_wait_s": max(0.0, self.step_s - self.learn_s),
        }

    def __str__(self) -> str:
        whole = max(1, math.ceil(self.workers))
        return (
            f"a step of {self.step_s:.1f} s learns for {self.learn_s:.1f} s and plays for "
            f"{self.play_s:.1f} s with {self.engines:.3g} rollout workers; {whole} would balance it"
        )


def of_step(
    play_s: float, engines: float, learner_s: float, stages: Mapping[str, float]
) -> Balance:
    """Return the balance of one step.

    Args:
        learner_s: seconds that the learner computed for the batch.
        stages: seconds of the stages, as the driver waited for them.
    """
    learn_s = learner_s + sum(stages.get(stage, 0.0) for stage in LEARNERS)
    return Balance(play_s, learn_s, engines, sum(stages.values()))


def of_steps(lines: Iterable[Mapping[str, Any]]) -> Balance | None:
    """Return the balance over the steps of metrics.jsonl; None without any that was measured."""
    # Lines of an older release have no seconds of the step.
    measured = [line for line in lines if "balance/step_s" in line]
    if not measured:
        return None
    count = len(measured)
    play_s = sum(line["balance/play_s"] for line in measured)
    learn_s = sum(line["balance/learn_s"] for line in measured)
    step_s = sum(line["balance/step_s"] for line in measured)
    work = sum(line["balance/play_s"] * line["balance/engines"] for line in measured)
    return Balance(play_s / count, learn_s / count, work / max(play_s, 1e-9), step_s / count)
