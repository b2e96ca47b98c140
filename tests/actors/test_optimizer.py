"""DeepSpeed's configuration, and the learning rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.learning_rate import learning_rate
from actors.optimizer import deepspeed_config
from tests.actors.learners import config

FOLDER = Path("x")


def test_a_linear_schedule_warms_up_and_falls_to_zero() -> None:
    linear = config(FOLDER, lr=1.0, warmup_steps=2, schedule="linear").learner
    rates = [learning_rate(update, 6, linear) for update in range(7)]
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert learning_rate(50, 6, linear) == 0.0


def test_a_cosine_schedule_falls_to_zero() -> None:
    cosine = config(FOLDER, lr=1.0, schedule="cosine").learner
    rates = [learning_rate(update, 4, cosine) for update in (0, 2, 4)]
    assert rates == pytest.approx([1.0, 0.5, 0.0])


def test_a_constant_schedule_stays() -> None:
    constant = config(FOLDER, lr=1.0, schedule="constant").learner
    assert learning_rate(99, 4, constant) == 1.0


def test_an_unknown_schedule_is_refused() -> None:
    unknown: Any = "poly"
    learner = replace(config(FOLDER).learner, schedule=unknown)
    with pytest.raises(ValueError, match="constant, linear, cosine"):
        learning_rate(0, 4, learner)


def test_clipping_is_never_left_to_deepspeeds_default() -> None:
    assert deepspeed_config(config(FOLDER, grad_clip=0.0))["gradient_clipping"] == 0.0


def test_an_unknown_zero_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="zero_stage=4"):
        deepspeed_config(config(FOLDER, stage=4))
