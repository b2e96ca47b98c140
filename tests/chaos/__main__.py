"""Fifty faults in one run, and nothing lost.

    make chaos
    make chaos ARGS="--steps 12 --faults 8 --seed 2"
    make chaos ARGS="--steps 4 --faults 2 --kind 'stop engine' --kind 'kill driver'"

Trains a tiny preset twice: undisturbed, then under faults drawn from all kinds
(`tests.chaos.faults`). The second run must end by itself with the weights of the first, every group
learned from exactly once, one point a step in MLflow, and nothing left behind.

Both runs live in a mount namespace of their own, with a disk of their own to fill and a /dev/shm of
their own to look into: this needs root, or user namespaces (`unshare --map-root-user`). Takes a
quiet machine: one of the faults fills its memory.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import processes
from tests.chaos.faults import FAULTS
from tests.chaos.plan import Planned, inflicting, plan
from tests.chaos.space import enter
from tests.chaos.trial import Trial
from tests.chaos.verdict import differences, left_behind, told_hangs, tracking_that_differs

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


def chaos(trial: Trial, steps: int, planned: Sequence[Planned], kinds: Sequence[str]) -> list[str]:
    """Train twice, the second time under faults; return what is wrong afterwards."""
    undisturbed = trial.run_of("undisturbed")
    began = time.monotonic()
    trial.train("undisturbed")
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)

    began = time.monotonic()
    with inflicting(trial, planned, kinds) as inflicted:
        trial.train("chaos")
    seconds = time.monotonic() - began
    print(f"chaos: {seconds:.0f} s, {trial.starts} starts, {len(inflicted)} faults", flush=True)
    print(told_hangs(trial.log, inflicted), flush=True)

    wrong = []
    if len(inflicted) < len(planned):
        wrong.append(f"{len(inflicted)} of {len(planned)} faults before its end: give more steps")
    wrong += differences(trial.run, undisturbed, steps)
    wrong += tracking_that_differs(trial, steps)
    if trial.server is not None:
        trial.server.stop()
    return wrong + left_behind()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.chaos",
        description=__doc__,
        epilog="kinds:\n    " + "\n    ".join(FAULTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="revseg_tiny", help="of both runs (revseg_tiny)")
    parser.add_argument("--steps", type=int, default=60, help="steps of both runs (60)")
    parser.add_argument("--faults", type=int, default=50, help="faults of the second one (50)")
    parser.add_argument("--first", type=int, default=0, help="no fault before this step (0)")
    parser.add_argument("--seed", type=int, default=1, help="draws kinds, moments and victims")
    parser.add_argument(
        "--kind",
        action="append",
        choices=FAULTS,
        metavar="KIND",
        help="only this kind; may be repeated",
    )
    parser.add_argument(
        "--but",
        action="append",
        default=[],
        choices=FAULTS,
        metavar="KIND",
        help="all kinds but this one; may be repeated",
    )
    parser.add_argument("--out", type=Path, help="a new folder (runs/chaos_DATE_TIME)")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of both runs")
    given = parser.parse_args()

    out = given.out or Path("runs") / time.strftime("chaos_%Y%m%d_%H%M%S")
    if out.exists():
        parser.error(f"--out {out} exists: give a new folder")
    enter()
    # The processes below are ended in any case.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    kinds = [kind for kind in given.kind or FAULTS if kind not in given.but]
    rng = random.Random(given.seed)
    planned = plan(rng, given.steps, given.faults, kinds, given.first)
    settings = [*SETTINGS, f"train.steps={given.steps}", *given.settings]
    with_server = "kill MLflow" in kinds or "stop MLflow" in kinds
    trial = Trial(out.resolve(), given.preset, settings, rng, with_server)
    print(f"logs: {trial.folder}", flush=True)
    try:
        trial.open()
        wrong = chaos(trial, given.steps, planned, kinds)
    finally:
        processes.end_all()
        trial.close()
    print("\n".join(wrong) or "nothing is lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
