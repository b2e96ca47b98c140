"""The guard against going wrong: reasons to stop a training run instead of wasting its time.

`before_publishing` looks at a step's update and `after_step` at its figures. Each error names the
last good checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Config
from core.types import Group
from ray_jobs.driver.supervisor import Hopeless
from ray_jobs.record import checkpoint


@dataclass
class Guard:
    """The guard of one run.

    Attributes:
        cfg: Its bounds.
        checkpoints: Folder of the run's checkpoints.
        dead_steps: Steps in a row without anything to learn from.
        floor: The lowest reward of any episode so far.
    """

    cfg: Config
    checkpoints: Path
    dead_steps: int = 0
    floor: float = math.inf

    def before_publishing(self, metrics: Mapping[str, float]) -> None:
        """Stop before rollout actors or a checkpoint get the weights of a diverged update.

        Raises:
            Hopeless: Weights, gradients or KL divergence are out of bounds.
        """
        bounds = self.cfg.train
        limits = {
            "weight_max": ("largest weight", "train.max_weight", bounds.max_weight),
            "grad_norm": ("gradient norm", "train.max_grad_norm", bounds.max_grad_norm),
            "kl": ("KL divergence from the reference", "train.max_kl", bounds.max_kl),
        }
        for name, (what, key, most) in limits.items():
            value = metrics.get(name, 0.0)
            # A skipped step has no gradient norm; `learner.max_bad_steps` bounds their number.
            is_skipped = name == "grad_norm" and not math.isfinite(value)
            if is_skipped or value <= most:
                continue
            raise Hopeless(
                f"the policy diverged: its {what} is {value:.3g}, above {key}={most:g}: "
                f"{self._remedy()}, with a smaller learner.lr"
            )

    def after_step(self, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """Stop when no further step would help.

        Raises:
            Hopeless: Too many bad or dead steps, or too large a gap of engine and learner.
        """
        self._stop_on_bad_steps(metrics)
        self._stop_on_dead_steps(groups)
        stop_on_gap(self.cfg, metrics)

    def _stop_on_bad_steps(self, metrics: Mapping[str, float]) -> None:
        """Stop when many updates in a row were skipped, since every further one would be too."""
        bad_steps = metrics["bad_steps"]
        most = self.cfg.learner.max_bad_steps
        if bad_steps < most:
            return
        raise Hopeless(
            f"{bad_steps:.0f} optimizer steps in a row had a loss or gradient that is not finite "
            f"and were skipped (learner.max_bad_steps={most}): {self._remedy()}, with a smaller "
            "learner.lr"
        )

    def _stop_on_dead_steps(self, groups: Sequence[Group]) -> None:
        """Stop when the policy only earns the lowest reward: no group has anything to compare."""
        totals: list[float] = []
        for group in groups:
            totals += [reward.total for reward in group.rewards if reward is not None]
        if not totals:
            return

        self.floor = min(self.floor, *totals)
        is_dead = max(totals) <= self.floor
        self.dead_steps = self.dead_steps + 1 if is_dead else 0
        most = self.cfg.train.max_dead_steps
        if most == 0 or self.dead_steps < most:
            return
        raise Hopeless(
            f"in {self.dead_steps} steps in a row every episode had the lowest reward of this run, "
            f"{self.floor:g} (train.max_dead_steps={most}): the policy answers nothing useful any "
            f"more; {self._remedy()}, with a smaller learner.lr"
        )

    def _remedy(self) -> str:
        good = checkpoint.latest(self.checkpoints)
        if good is None:
            return "no checkpoint was written yet; start again"
        return f"go on from the last good checkpoint, {good}"


def lowest_reward(episodes: Iterable[Mapping[str, Any]], through: int) -> float:
    """Return the lowest reward in the lines of episodes.jsonl; infinity without any.

    A resumed run must know it: rewards that are all equal may be the highest ones.

    Args:
        through: The last step to look at; later ones are learned again.
    """
    rewards = []
    for line in episodes:
        if line["step"] <= through and line["reward"] is not None:
            rewards.append(line["reward"])
    return min(rewards, default=math.inf)


def stop_on_gap(cfg: Config, metrics: Mapping[str, float]) -> None:
    """Check that engine and learner see the same, on tokens that the newest weights sampled.

    In a strictly on-policy run these are all; off policy they are those sampled since the last
    update, and a step may have none.

    Raises:
        Hopeless: The mean log-prob gap is above `train.max_logprob_gap`.
    """
    name = "logprob_gap_of_age/0" if cfg.rollout.max_staleness else "logprob_gap_mean"
    gap = metrics.get(name, 0.0)
    if gap <= cfg.train.max_logprob_gap:
        return
    raise Hopeless(
        f"mean |log-prob gap| between engine and learner is {gap:.2e}, above "
        f"train.max_logprob_gap={cfg.train.max_logprob_gap:g}: they do not see the same tokens, "
        "images or weights"
    )
