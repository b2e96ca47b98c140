"""Where a run goes on after a death, and how often a learner may die on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from actors.learner_pool import LearnerLost
from configs.load import resolve
from configs.schema import RUN, ClusterConfig, Config
from core.settings import identity
from models.engine.settings import OBJECT_STORE
from ray_jobs.record import checkpoint
from ray_jobs.record.journal import fingerprint_of
from ray_jobs.record.run_folder import RunFolder


@dataclass
class Rebuilds:
    """The deaths of a run's learner.

    Attributes:
        record: The run's files.
        in_a_row: Deaths since the last progress.
        reached: The last step on record and the last checkpoint at the last death.
    """

    cfg: ClusterConfig
    record: RunFolder
    in_a_row: int = 0
    reached: tuple[int, int] = (-1, -1)

    def allow(self, lost: LearnerLost, start: Path | None) -> str:
        """Count a death; return what follows it.

        Args:
            start: The checkpoint to go on from; None is the policy itself.

        Raises:
            RuntimeError: The learner cannot be started anew, or died too often.
        """
        cfg = self.cfg
        if cfg.weight_backend != OBJECT_STORE:
            raise RuntimeError(
                f"{lost}; with cluster.weight_backend={cfg.weight_backend} the engines share its "
                "process group: start again, and the run goes on from its last checkpoint"
            ) from lost

        reached = (self.record.last_step(), step_of(start))
        self.in_a_row = self.in_a_row + 1 if reached == self.reached else 1
        self.reached = reached
        if self.in_a_row > cfg.max_rebuilds:
            raise RuntimeError(
                f"{lost}; it was started anew {cfg.max_rebuilds} times without another step or "
                "checkpoint in between (cluster.max_rebuilds): look for the cause in the log of "
                "its node (no memory?), then start again; the run goes on from "
                f"{start or 'its start'}"
            ) from lost
        return (
            f"started anew from {start or 'the initial policy'} "
            f"({self.in_a_row} of {cfg.max_rebuilds} times without progress)"
        )


def newest_start(checkpoints: Path, start: Path | None) -> Path | None:
    """Return the checkpoint to go on from: the newest whole one, or the one that a run began with.

    Args:
        start: A checkpoint of another run may be ahead of this run's own.
    """
    newest = checkpoint.latest(checkpoints)
    if newest is None:
        return start
    # One of this run's own may have been removed since.
    if start is None or not start.is_dir():
        return newest
    return start if step_of(start) >= step_of(newest) else newest


def step_of(folder: Path | None) -> int:
    """Return the step of a checkpoint; 0 of the initial policy."""
    if folder is None:
        return 0
    return int(checkpoint.read_state(folder)["step"])


def origin_of(cfg: Config, checkpoints: Path, start: Path | None) -> str:
    """Return a name for the weights that a run began with, for its group log.

    A checkpoint of its own names those of the run. Any other begins another history.

    Args:
        checkpoints: Folder of the run's own checkpoints.
    """
    if start is None:
        return fingerprint_of(_files(resolve(cfg.policy.path)))
    is_own = start.resolve().parent == checkpoints.resolve()
    origin = checkpoint.read_state(start).get("origin", "")
    if is_own and origin:
        return str(origin)
    manifest = (start / checkpoint.MANIFEST).read_bytes()
    return hashlib.sha256(manifest).hexdigest()


def history_of(cfg: Config, origin: str) -> str:
    """Return a name for all that decides on the groups of a run, apart from their prompts."""
    # The learning rate of a step may depend on the number of all steps.
    return fingerprint_of([identity(cfg, RUN), cfg.train.steps, origin])


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of each file in a folder; none of a name on a hub."""
    facts = []
    if folder.is_dir():
        for file in sorted(folder.iterdir()):
            status = file.stat()
            facts.append((file.name, status.st_size, status.st_mtime_ns))
    return facts
