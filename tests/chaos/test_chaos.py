"""A small trial of faults. `make chaos` is the large one.

`pytest tests/chaos --chaos 3` lets three faults happen instead of four, `--chaos 0` none.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import REPOSITORY
from tests.chaos.faults import FAULTS
from tests.chaos.plan import plan
from tests.chaos.space import is_allowed
from tests.ray_jobs.conftest import environment, told

STEPS = 6
# The first three need no second start.
KINDS = (
    "kill engine",
    "kill learner",
    "kill reward",
    "kill driver",
    "stop engine",
    "stop segmenter",
    "SIGTERM",
    "kill rollout",
)
# As few processes as have all these kinds.
FEW = (
    "rollout.workers=1",
    "reward.workers=1",
    "segmenter.workers=1",
    "learner.world_size=1",
    "train.eval_before=false",
    "train.checkpoint_every=2",
)


def test_a_plan_draws_every_kind_in_turn_at_moments_in_order() -> None:
    planned = plan(random.Random(1), steps=60, faults=50, kinds=list(FAULTS))
    assert len(planned) == 50
    assert {fault.kind for fault in planned[: len(FAULTS)]} == set(FAULTS)
    moments = [fault.step for fault in planned]
    assert moments == sorted(moments)
    assert moments[0] >= 0
    # The run must not end before the last of them.
    assert moments[-1] < 40
    late = plan(random.Random(1), steps=6, faults=3, kinds=["kill engine"], first=1)
    assert {fault.step for fault in late} <= {1, 2, 3}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not is_allowed(), reason="needs root, or user namespaces")
def test_a_run_under_faults_ends_as_an_undisturbed_one(tmp_path: Path, chaos_faults: int) -> None:
    if chaos_faults == 0:
        pytest.skip("--chaos 0")
    command = [sys.executable, "-m", "tests.chaos", "--out", str(tmp_path / "chaos")]
    # Before the first step a search for a victim often finds nobody, and takes its time.
    command += ["--steps", str(STEPS), "--faults", str(chaos_faults), "--first", "1"]
    for kind in KINDS[:chaos_faults]:
        command += ["--kind", kind]
    done = subprocess.run(
        [*command, *FEW], cwd=REPOSITORY, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, told(done)
    assert done.stdout.endswith("nothing is lost\n"), told(done)
