"""Fifty faults in one run, and nothing lost.

    make chaos
    python -m tests.chaos OUT --steps 60 --faults 50 --seed 1

Two runs of the tiny default: one undisturbed, one under faults drawn from all kinds
(`tests.chaos.faults`). The second must end by itself with the weights of the first, every group
learned from exactly once, one point a step in MLflow, and nothing left behind. Takes a quiet
machine of its own: one of the faults fills its memory.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.family import shared_memory
from tests.chaos.faults import FAULTS
from tests.chaos.trial import Planned, plan, trial
from tests.chaos.verdict import differences, left_behind, tracking_that_differs

SETTINGS = (
    "rollout.prompts_per_step=2",
    "rollout.group_size=4",
    "rollout.workers=2",
    "learner.world_size=2",
    "reward.workers=2",
    "train.eval_samples=2",
    "train.sampled_repeats=1",
    "train.eval_every=20",
    "train.checkpoint_every=5",
    "train.keep_checkpoints=3",
    # More than a user would allow: faults come every few seconds.
    "cluster.hang_s=15",
    "cluster.max_restarts=50",
    "cluster.max_rebuilds=50",
    "seed=3",
)


def chaos(folder: Path, steps: int, planned: Sequence[Planned], seed: int) -> list[str]:
    """Train twice, the second time under faults; return what is wrong afterwards."""
    before = shared_memory()
    with trial(folder, [*SETTINGS, f"train.steps={steps}"], seed) as made:
        for name, faults in (("undisturbed", ()), ("chaos", planned)):
            began = time.monotonic()
            code = made.train(name, faults)
            print(f"{name}: {time.monotonic() - began:.0f} s, {made.starts} starts", flush=True)
            if code != 0:
                return [f"exit code {code} of {name}: {made.log}"]
        wrong = differences(made.run, made.run_of("undisturbed"), steps)
        wrong += tracking_that_differs(made.server.uri, made.run, steps)
        wrong += left_behind(made.family, before)
        missed = [each.planned.kind for each in made.inflicted if not each.hit]
        print(f"{len(made.inflicted)} of {len(planned)} faults; nobody to hurt: {missed}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=FAULTS, help="only these; all without")
    given = parser.parse_args()
    kinds = given.kind or list(FAULTS)
    planned = plan(random.Random(given.seed), given.steps, given.faults, kinds)
    wrong = chaos(given.out.resolve(), given.steps, planned, given.seed)
    print("\n".join(wrong) or "nothing is lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
