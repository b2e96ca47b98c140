"""The guard: which steps stop a run, and which do not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Config
from core.types import Group, Reward
from ray_jobs.driver.guard import Guard, lowest_reward
from ray_jobs.record import checkpoint

GOOD = {"bad_steps": 0.0, "logprob_gap_mean": 0.0}


def group(*totals: float | None) -> Group:
    rewards = tuple(None if total is None else Reward(total, {}) for total in totals)
    return Group("sample", (), rewards)


def dead_steps(most: int) -> Config:
    cfg = Config()
    cfg.train.max_dead_steps = most
    return cfg


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"weight_max": math.inf}, "largest weight is inf, above train.max_weight=10000"),
        ({"weight_max": 2e4}, "largest weight is 2e[+]04"),
        ({"grad_norm": 2e6}, "gradient norm is 2e[+]06, above train.max_grad_norm=1e[+]06"),
        ({"kl": 101.0}, "KL divergence from the reference is 101, above train.max_kl=100"),
        ({"kl": math.nan}, "KL divergence from the reference is nan"),
    ],
)
def test_a_diverged_update_stops(tmp_path: Path, metrics: dict[str, float], says: str) -> None:
    guard = Guard(Config(), tmp_path)
    with pytest.raises(RuntimeError, match=f"{says}.*no checkpoint was written yet"):
        guard.before_publishing(metrics)

    good = checkpoint.save(tmp_path, 3, lambda folder: None, {})
    with pytest.raises(RuntimeError, match=f"go on from the last good checkpoint, {good}"):
        guard.before_publishing(metrics)


def test_a_usual_and_a_skipped_update_go_on(tmp_path: Path) -> None:
    guard = Guard(Config(), tmp_path)
    guard.before_publishing({"weight_max": 30.0, "grad_norm": 4.0, "kl": 0.1})
    guard.before_publishing({"grad_norm": math.nan})
    guard.before_publishing({})


def test_steps_at_the_lowest_reward_stop(tmp_path: Path) -> None:
    guard = Guard(dead_steps(3), tmp_path)
    guard.after_step(GOOD, [group(0.0, 1.0)])
    guard.after_step(GOOD, [group(0.0, 0.0), group(0.0, None)])
    guard.after_step(GOOD, [group(0.0, 0.0)])
    # One better episode, and the count starts again.
    guard.after_step(GOOD, [group(0.0, 0.5)])
    for _ in range(2):
        guard.after_step(GOOD, [group(0.0, 0.0)])
    with pytest.raises(RuntimeError, match="in 3 steps in a row every episode had the lowest"):
        guard.after_step(GOOD, [group(0.0, 0.0)])


def test_a_solved_task_is_not_dead(tmp_path: Path) -> None:
    guard = Guard(dead_steps(2), tmp_path)
    guard.after_step(GOOD, [group(0.0, 3.0)])
    for _ in range(5):
        guard.after_step(GOOD, [group(3.0, 3.0)])


def test_a_solved_task_is_not_dead_after_a_resume(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "reward": 3.0},
        {"step": 1, "reward": None},
        {"step": 2, "reward": 0.5},
        {"step": 3, "reward": 0.0},
    ]
    floor = lowest_reward(lines, through=2)
    assert floor == 0.5
    guard = Guard(dead_steps(2), tmp_path, floor=floor)
    for _ in range(5):
        guard.after_step(GOOD, [group(3.0, 3.0)])
    assert lowest_reward(lines, through=0) == math.inf


def test_zero_dead_steps_never_stop(tmp_path: Path) -> None:
    guard = Guard(dead_steps(0), tmp_path)
    for _ in range(5):
        guard.after_step(GOOD, [group(0.0, 0.0)])


def test_the_gap_counts_on_tokens_of_the_newest_weights(tmp_path: Path) -> None:
    cfg = Config()
    wide = GOOD | {"logprob_gap_mean": 2e-4}
    with pytest.raises(RuntimeError, match=r"gap.*is 2.00e-04, above train.max_logprob_gap=0.0001"):
        Guard(cfg, tmp_path).after_step(wide, [])
    cfg.rollout.max_staleness = 1
    Guard(cfg, tmp_path).after_step(wide | {"logprob_gap_of_age/0": 1e-6}, [])
    # All tokens are older.
    Guard(cfg, tmp_path).after_step(wide | {"logprob_gap_of_age/1": 2e-4}, [])
    with pytest.raises(RuntimeError, match=r"gap.*is 3.00e-04, above train.max_logprob_gap=0.0001"):
        Guard(cfg, tmp_path).after_step(wide | {"logprob_gap_of_age/0": 3e-4}, [])
