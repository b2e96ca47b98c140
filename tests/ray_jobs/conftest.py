"""Jobs as a user starts them: a process of its own, a small data set, and one finished run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.load import REPOSITORY
from ray_jobs.record.run_folder import RunFolder
from tests.conftest import ENV
from tests.data.fixtures import FIXTURES
from tiny.world.write import write_split

STEPS = 2
PROMPTS = 4
GROUP = 4
EVALUATED = 4
TIMEOUT_S = 600
# Data sets in their published layouts that a run mixes with the synthetic one, with their splits.
MIXED = {
    "revos": "valid",
    "ref_davis17": "valid",
    "lvvis": "train",
    "ref_youtube_vos": "train",
}

# Settings of all jobs, for instance `policy.path=...`, to test something else than the preset.
EXTRA = os.environ.get("RAYVOS_TEST_SETTINGS", "").split()


def environment() -> dict[str, str]:
    """Return a user's environment, without the variables of the tests.

    A job must set these for its own processes.
    """
    return {name: value for name, value in os.environ.items() if ENV.get(name) != value}


def job_command(job: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"ray_jobs.{job}", *words]


def start_job(job: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a job with these words and wait for it."""
    return subprocess.run(
        job_command(job, *words),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def command(job: str, *settings: str) -> list[str]:
    """Return the command line of a job with the default preset."""
    return job_command(job, "revseg_tiny", *EXTRA, *settings)


def run_job(job: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a job with the default preset and wait for it."""
    return start_job(job, "revseg_tiny", *EXTRA, *settings)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a process, for the message of a failed assertion."""
    return f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


@dataclass(frozen=True)
class Small:
    """Settings of a run of one minute: everything real, everything few."""

    data: Path
    home: Path

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.home}/mlflow.db"

    def settings(self, name: str) -> list[str]:
        """Return the settings of a run with one actor of a kind."""
        return [
            f"name={name}",
            f"runs={self.home}/runs",
            f"tracking.mlflow_uri={self.mlflow_uri}",
            "data.synthetic=false",
            f"data.root={self.data}",
            "learner.world_size=1",
            "segmenter.workers=1",
            f"rollout.prompts_per_step={PROMPTS}",
            f"rollout.group_size={GROUP}",
            f"train.steps={STEPS}",
            "train.checkpoint_every=1",
            f"train.eval_every={STEPS}",
            f"train.eval_samples={EVALUATED}",
            f"evaluate.samples={EVALUATED}",
            "train.sampled_repeats=1",
        ]

    def mixed(self, name: str) -> list[str]:
        """Return the settings of a run on five data sets, with two ranks and two segmenters.

        One query is too long for it.
        """
        sets = [f"{{format: mevis, root: {self.data}, split: train, weight: 2}}"]
        for format, split in MIXED.items():
            sets.append(
                f"{{format: {format}, root: {self.data}/{format}, split: {split}, weight: 1}}"
            )
        two = ["learner.world_size=2", "segmenter.workers=2"]
        return [*self.settings(name), *two, f"data.sets=[{', '.join(sets)}]"]

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.home / "runs" / name)


# The sample of the mix without room for an answer, and what makes it so long.
TOO_LONG = "revos_valid/LVOS/valid/kitten/0"
LONG_QUERY = "what is the milk for " * 120


def write_mix(data: Path) -> None:
    """Write small data sets in their published layouts, one with a query that cannot fit."""
    for format in MIXED:
        FIXTURES[format](data / format)
    file = data / "revos" / "meta_expressions_valid_.json"
    content = json.loads(file.read_text())
    content["videos"]["LVOS/valid/kitten"]["expressions"]["0"]["exp"] = LONG_QUERY
    file.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    data = tmp_path_factory.mktemp("data")
    for split, videos in (("train", 5), ("valid", 2), ("test", 3)):
        write_split(data, split, seed=1, num_videos=videos, expressions_per_video=2)
    write_mix(data)
    return Small(data, tmp_path_factory.mktemp("home"))


@dataclass(frozen=True)
class Finished:
    small: Small
    run: RunFolder
    output: str


@pytest.fixture(scope="session")
def finished(small: Small) -> Finished:
    """An uninterrupted run of two steps on two ranks, with a mix of data sets."""
    done = run_job("train", *small.mixed("whole"), "--profile", str(STEPS))
    assert done.returncode == 0, told(done)
    return Finished(small, small.run("whole"), done.stdout)


def keys_of(lines: Sequence[dict[str, object]]) -> set[str]:
    """Return the keys of every line."""
    keys = [set(line) for line in lines]
    return set.intersection(*keys)
