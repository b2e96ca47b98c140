"""A small trial of faults: eight in one run, nothing lost. `make chaos` is the large one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.__main__ import chaos
from tests.chaos.faults import FAULTS
from tests.chaos.trial import plan

STEPS = 8
KINDS = (
    "kill rollout",
    "kill idle engine",
    "stop engine",
    "kill reward",
    "kill learner 0",
    "stop learner 1",
    "kill driver",
    "end driver (SIGTERM)",
)


def test_a_plan_draws_every_kind_in_turn_at_moments_in_order() -> None:
    planned = plan(random.Random(1), steps=60, faults=50, kinds=list(FAULTS))
    assert len(planned) == 50
    assert {fault.kind for fault in planned[: len(FAULTS)]} == set(FAULTS)
    moments = [fault.step for fault in planned]
    assert moments == sorted(moments)
    assert moments[0] >= 0
    assert moments[-1] < 60


@pytest.mark.slow
def test_a_run_under_eight_faults_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    planned = plan(random.Random(2), STEPS, len(KINDS), KINDS)
    assert chaos(tmp_path, STEPS, planned, seed=2) == []
