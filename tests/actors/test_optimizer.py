"""What DeepSpeed is told: learning rate and clipping."""

import dataclasses

import pytest

from actors.learning_rate import learning_rate
from actors.optimizer import deepspeed_config
from tests.actors.learners import config


def test_learning_rate_schedules():
    cfg = config("x", lr=1.0, warmup_steps=2, schedule="linear")
    assert [learning_rate(i, 6, cfg.learner) for i in range(7)] == [
        0.5,
        1.0,
        1.0,
        0.75,
        0.5,
        0.25,
        0.0,
    ]
    assert learning_rate(50, 6, cfg.learner) == 0.0
    cosine = dataclasses.replace(cfg.learner, schedule="cosine", warmup_steps=0)
    assert [learning_rate(i, 4, cosine) for i in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])
    constant = dataclasses.replace(cfg.learner, schedule="constant", warmup_steps=0)
    assert learning_rate(99, 4, constant) == 1.0
    with pytest.raises(ValueError, match="constant, linear, cosine"):
        learning_rate(0, 4, dataclasses.replace(cfg.learner, schedule="poly"))  # type: ignore[arg-type]


def test_clipping_is_never_left_to_deepspeeds_default():
    assert deepspeed_config(config("x", grad_clip=0.0))["gradient_clipping"] == 0.0
    with pytest.raises(ValueError, match="zero_stage=4"):
        deepspeed_config(config("x", stage=4))
