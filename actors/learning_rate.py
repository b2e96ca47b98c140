"""The learning-rate schedule."""

from __future__ import annotations

import math

from configs.schema import LearnerConfig

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(update: int, total: int, cfg: LearnerConfig) -> float:
    """Return the learning rate of optimizer step `update` (from 0) of `total`.

    After a linear warm-up it is constant, or falls to 0 at the end.

    Raises:
        ValueError: an unknown schedule.
    """
    if cfg.schedule not in SCHEDULES:
        raise ValueError(f"learner.schedule={cfg.schedule!r}: one of {', '.join(SCHEDULES)}")
    if update < cfg.warmup_steps:
        return cfg.lr * (update + 1) / cfg.warmup_steps

    done = min(1.0, (update - cfg.warmup_steps) / max(1, total - cfg.warmup_steps))
    if cfg.schedule == "linear":
        return cfg.lr * (1.0 - done)
    if cfg.schedule == "cosine":
        return cfg.lr * (0.5 * (1.0 + math.cos(math.pi * done)))
    return cfg.lr
