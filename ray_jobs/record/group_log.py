"""The group log of a run: every group as it was played, so that none has to be played twice.

    runs/<name>/groups/step_N.jsonl        a line for each group, in the order of arrival

The weights of a run are a function of a checkpoint and the groups since then. A group is written
here before anything else is done with it. After a death, of the driver or of the learner, the steps
since the last checkpoint are learned again from this log.

Episodes are kept whole, in one compressed string (`core.episode_json`): token ids, exact log-probs,
views, weight versions. Pixels are not: views name them by digest, and `data.frames.shown` reads
them from the videos.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from core.episode_json import pack_episodes, unpack_episodes
from core.files import append_bytes, repair_lines
from core.types import Episode
from ray_jobs.record.journal import fingerprint_of

# Steps whose names are kept: groups of several may come in turns.
RECENT = 8

_NAME = re.compile(r"step_(\d+)\.jsonl")


@dataclass(frozen=True)
class LoggedGroup:
    """A line of the log.

    Attributes:
        draw: name of the run's settings and of the prompts of its step; a line under another name
            is of another run.
        index: position of the group's prompt among those of its step.
        sample_uid: its sample.
    """

    draw: str
    index: int
    sample_uid: str
    episodes: tuple[Episode, ...]


def to_line(
    group: LoggedGroup, encoded: bytes | memoryview | None = None
) -> list[bytes | memoryview]:
    """Return the parts of a group's line of JSON, with its newline.

    Args:
        encoded: `pack_episodes` of its episodes, if somebody has made it.
    """
    head = {"draw": group.draw, "index": group.index, "sample_uid": group.sample_uid}
    # Its brace stays open for the episodes.
    opened = json.dumps(head, separators=(",", ":"))[:-1]
    if encoded is None:
        encoded = pack_episodes(group.episodes)
    return [f'{opened},"episodes":"'.encode(), encoded, b'"}\n']


def from_line(line: str | bytes) -> LoggedGroup:
    """Return the group of a line; an older one has its episodes as they are.

    Raises:
        ValueError: the line is broken, or of another form.
    """
    try:
        content = json.loads(line)
        if isinstance(content, dict) and isinstance(content.get("episodes"), str):
            content["episodes"] = unpack_episodes(content["episodes"])
        return msgspec.convert(content, LoggedGroup)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


@dataclass
class GroupLog:
    """The groups since the oldest checkpoint that a run may go on from.

    Attributes:
        folder: its files.
        run: name of the run's settings and of its start.
        say: takes a line for the user.
    """

    folder: Path
    run: str
    say: Callable[[str], None] = print
    _said: set[str] = field(default_factory=set)
    # Samples of the last steps, with the name of their draw.
    _draws: dict[int, tuple[list[str], str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, run: str, say: Callable[[str], None] = print) -> GroupLog:
        """Make the folder or continue one; a line that a kill cut off is removed."""
        folder.mkdir(parents=True, exist_ok=True)
        log = cls(folder, run, say)
        for file in log._files().values():
            repair_lines(file)
        return log

    def add(
        self,
        step: int,
        uids: Sequence[str],
        index: int,
        episodes: tuple[Episode, ...],
        encoded: bytes | memoryview | None = None,
    ) -> None:
        """Write a group to the disk.

        Without room the run goes on: only a death would make it play the group again.

        Args:
            uids: samples that were drawn for the step. A group in the place of one of them has an
                index behind these.
            encoded: `core.episode_json.pack_episodes` of the episodes, if somebody has made it.
        """
        file = self._file(step)
        group = LoggedGroup(self._draw(step, uids), index, episodes[0].sample_uid, episodes)
        try:
            append_bytes(file, *to_line(group, encoded))
        except OSError as error:
            if file.exists():
                repair_lines(file)
            self._say_once(
                f"a group is not in the log, so after a death it would be played again: {error}"
            )

    def read(
        self, step: int, uids: Sequence[str], versions: Container[int]
    ) -> dict[int, tuple[Episode, ...]]:
        """Return the groups of a step by their index.

        A line of another run, of other prompts or of other weights is left out, and so is a broken
        one; either is said.

        Args:
            uids: samples of the step.
            versions: weights that the step may be played with.
        """
        file = self._file(step)
        if not file.exists():
            return {}

        draw = self._draw(step, uids)
        groups = {}
        foreign = 0
        # Behind the last newline is the rest of a line that was cut off.
        whole_lines = file.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(whole_lines, start=1):
            try:
                group = from_line(line)
            except ValueError as error:
                self._say_once(f"{file}, line {number} is broken, its group left out: {error}")
                continue
            if group.draw == draw and _played_with(group, versions):
                groups[group.index] = group.episodes
            else:
                foreign += 1
        if foreign:
            self._say_once(
                f"{file}: {foreign} groups are left out, of another run, other settings or weights"
            )
        return groups

    def forget(self, through: int) -> None:
        """Remove the groups of the steps up to and with this one."""
        for step, file in self._files().items():
            if step <= through:
                file.unlink()

    def drop(self, step: int) -> None:
        """Remove the groups of one step: they shall be played again."""
        self._file(step).unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        return self.folder / f"step_{step}.jsonl"

    def _files(self) -> dict[int, Path]:
        """Return the files by their step."""
        files = {}
        for file in self.folder.iterdir():
            match = _NAME.fullmatch(file.name)
            if match:
                files[int(match.group(1))] = file
        return files

    def _draw(self, step: int, uids: Sequence[str]) -> str:
        """Return the name of a step's settings and prompts; every group of the step asks for it."""
        known = self._draws.get(step)
        if known is not None and known[0] == uids:
            return known[1]
        draw = fingerprint_of([self.run, step, *uids])
        self._draws[step] = (list(uids), draw)
        for oldest in list(self._draws)[:-RECENT]:
            del self._draws[oldest]
        return draw

    def _say_once(self, text: str) -> None:
        """Say something; a step is read again after every death."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)


def _played_with(group: LoggedGroup, versions: Container[int]) -> bool:
    """Return True if only these weights made the turns that are learned."""
    for episode in group.episodes:
        for turn in episode.turns:
            if turn.trainable and turn.version not in versions:
                return False
    return True
