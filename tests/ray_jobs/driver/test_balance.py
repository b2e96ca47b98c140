"""The split between playing and learning, and the number of engines that balances it."""

from __future__ import annotations

import pytest

from ray_jobs.driver.balance import of_step, of_steps

# As the driver waited for them; the learner computes 6 s beside.
STAGES = {"play": 9.0, "mask": 1.0, "score": 0.0, "learn": 0.5, "publish": 1.0}


@pytest.mark.parametrize(
    ("play_s", "engines", "learner_s", "stages", "workers"),
    [
        (8.0, 1.0, 6.0, STAGES, 1.0),
        (16.0, 1.0, 6.0, STAGES, 2.0),
        (16.0, 3.0, 6.0, STAGES, 6.0),
        (4.0, 4.0, 6.0, STAGES, 2.0),
        (0.0, 2.0, 6.0, STAGES, 0.0),
        (3.0, 1.0, 2.0, {"learn": 1.0}, 1.5),
        # A step without any learning would need ever more engines; the figure stays finite.
        (2.0, 1.0, 0.0, {}, 2000.0),
    ],
)
def test_workers(
    play_s: float, engines: float, learner_s: float, stages: dict[str, float], workers: float
) -> None:
    balance = of_step(play_s, engines, learner_s, stages)
    assert balance.workers == pytest.approx(workers)
    assert balance.metrics["balance/workers"] == balance.workers


def test_waits_of_either_side() -> None:
    metrics = of_step(9.0, 1.0, 6.0, STAGES).metrics
    assert metrics["balance/step_s"] == 11.5
    assert metrics["balance/engines_wait_s"] == 2.5
    assert metrics["balance/learner_wait_s"] == 3.5


def test_several_steps() -> None:
    """Long steps count more: 30 engine-seconds of 12 s play, against 8 s of learning."""
    lines = [
        {"step": 1, "reward": 0.5},
        {"step": 2, **of_step(6.0, 1.0, 4.0, {"play": 6.0, "learn": 1.0}).metrics},
        {"step": 3, **of_step(6.0, 4.0, 4.0, {"play": 6.0, "learn": 1.0}).metrics},
    ]
    balance = of_steps(lines)
    assert balance is not None
    assert (balance.play_s, balance.learn_s, balance.engines) == (6.0, 4.0, 2.5)
    assert balance.workers == 3.75
    assert str(balance) == (
        "a step of 7.0 s learns for 4.0 s and plays for 6.0 s with 2.5 rollout workers; "
        "4 would balance it"
    )


def test_nothing_measured() -> None:
    assert of_steps([]) is None
    assert of_steps([{"step": 1}]) is None


def test_at_least_one_worker() -> None:
    assert str(of_step(0.1, 1.0, 9.0, {})).endswith("1 would balance it")
