"""The schema agrees with the code behind its words, and knows what identifies a result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from actors.learning_rate import SCHEDULES
from configs.load import choices, load, presets
from configs.schema import PREDICTIONS, RUN
from core.evaluation.protocols import PROTOCOLS
from core.grpo import AGGREGATIONS, IMPORTANCE_LEVELS, KL_ESTIMATORS
from core.losses import LOSSES
from core.settings import identity
from data.load import NO_TARGET, READERS
from models.policy.policy import DTYPES
from ray_jobs.driver.prepare_steps import STEPS
from tiny.world.scene import LENGTHS

# A run continues under other values of the settings that start like this.
FREE_IN_A_RUN = (
    "allow_resolvers",
    "data.max_pixels",
    "name",
    "runs",
    "train.",
    "tracking.",
    "record.",
    "cluster.",
    "warm_start.",
    "evaluate.",
    "prepare.",
    "rollout.workers",
    "rollout.min_workers",
    "rollout.max_workers",
    "rollout.cpus_per_worker",
    "reward.",
    "segmenter.workers",
)

# Predictions are mixed only under equal values of the settings that start like this.
FIXED_IN_PREDICTIONS = (
    "seed",
    "policy.dtype",
    "policy.system_message",
    "policy.coordinates",
    "data.format",
    "data.test_split",
    "data.no_target",
    "system.",
    "rollout.top_p",
    "rollout.max_model_len",
    "segmenter.kind",
    "segmenter.config",
    "segmenter.multimask",
)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("policy.dtype", DTYPES),
        ("data.format", READERS),
        ("data.length", LENGTHS),
        ("data.no_target", NO_TARGET),
        ("grpo.loss", LOSSES),
        ("grpo.kl_estimator", KL_ESTIMATORS),
        ("grpo.aggregation", AGGREGATIONS),
        ("grpo.importance", IMPORTANCE_LEVELS),
        ("learner.schedule", SCHEDULES),
        ("evaluate.protocol", ["auto", *PROTOCOLS]),
        ("prepare.steps", STEPS),
    ],
)
def test_allowed_words_are_those_of_the_code(key: str, words: Any) -> None:
    assert sorted(choices(key)) == sorted(words)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{name}."))
        else:
            values[prefix + name] = value
    return values


@pytest.mark.parametrize("preset", presets())
def test_identity_of_a_run_and_of_predictions(preset: str) -> None:
    cfg = load([preset])
    every = flat(asdict(cfg))
    of_run = {key: value for key, value in every.items() if not key.startswith(FREE_IN_A_RUN)}
    assert identity(cfg, RUN) == of_run
    of_predictions = {
        key: value for key, value in every.items() if key.startswith(FIXED_IN_PREDICTIONS)
    }
    assert identity(cfg, PREDICTIONS) == of_predictions
