"""Predictions of an evaluation on disk: one line for each finished expression, so that a kill costs little.

    evaluation.json     what they were made with and of: settings, contents of the weights, expressions
    predictions.jsonl   {"uid", "video", "expression", "query", .., "scores": {..}, "masks": [encoding or null, ..]}

Lines are appended, whole or not at all. The newest line of an expression counts; one whose episode failed, which is our
fault, is played again. Only the places of the lines are kept in memory. This file knows no metric and no actor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.files import append_lines, jsonable, repair_lines, write_json
from core.types import Answer, End, Episode, MaskPrompt, Reward, Rle, Sample, SegPrompt, Turn

FILE = "predictions.jsonl"
IDENTITY = "evaluation.json"
# bytes, and how many of them tell two large files apart
BLOCK = 1 << 16
BLOCKS = 256


@dataclass
class Predictions:
    """The finished expressions of one evaluation."""

    folder: Path
    _places: dict[str, int] = field(default_factory=dict)  # uid -> first byte of its newest line
    _failed: set[str] = field(default_factory=set)
    _read: int = 0  # bytes

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> Predictions:
        """Goes on with what lies in `folder`, or starts there.

        Raises ValueError if that was made with another `identity` (names what differs), or cannot be read.
        """
        known = folder / IDENTITY
        now = jsonable(identity)
        if (folder / FILE).exists():
            there = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
            _same(folder, there, now)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(known, now)
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Predictions:
        """What lies in `folder`; ValueError if there is no evaluation, or a line that is no JSON."""
        if not (folder / IDENTITY).is_file():
            raise ValueError(
                f"{folder}: no {IDENTITY} there: give the folder of an evaluation, runs/<name>/evaluate"
            )
        repair_lines(folder / FILE)
        predictions = cls(folder)
        predictions._scan()
        return predictions

    @property
    def identity(self) -> dict[str, Any]:
        return json.loads((self.folder / IDENTITY).read_text(encoding="utf-8"))

    @property
    def finished(self) -> set[str]:
        """Uids of expressions that need not be played again."""
        return set(self._places) - self._failed

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines of `line_of`; they are on disk when it returns."""
        append_lines(self.folder / FILE, *lines)
        self._scan()

    def get(self, uid: str) -> dict[str, Any] | None:
        """The newest line of an expression."""
        if uid not in self._places:
            return None
        with (self.folder / FILE).open("rb") as lines:
            lines.seek(self._places[uid])
            return json.loads(lines.readline())

    def lines(self, uids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The newest lines of those of `uids` that are there, in their order, one at a time."""
        for uid in uids:
            line = self.get(uid)
            if line is not None:
                yield line

    def _scan(self) -> None:
        file = self.folder / FILE
        if not file.exists():
            return
        with file.open("rb") as lines:
            lines.seek(self._read)
            for raw in lines:
                try:
                    line = json.loads(raw)
                    uid = line["uid"]
                    failed = line["end"] == End.FAILED.value
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{file}: the line at byte {self._read} is no prediction ({error}): take it out, or play all "
                        "again with evaluate.resume=never"
                    ) from error
                self._places[uid] = self._read
                self._failed = self._failed | {uid} if failed else self._failed - {uid}
                self._read += len(raw)


def line_of(
    sample: Sample,
    episode: Episode,
    masks_F: Sequence[Rle | None],
    reward: Reward | None,
    scores: Mapping[str, float],
) -> dict[str, Any]:
    """All that is kept of one expression, JSON-able."""
    video = sample.video
    answer = episode.answer
    line = {
        "uid": sample.uid,
        "video": video.uid,
        "expression": expression_of(sample),
        "kind": sample.kind,
        "query": sample.query,
        "end": episode.end.value,
        "reward": reward.total if reward else None,
        "parts": reward.parts if reward else {},
        "scores": dict(scores),
        "answer": answer.to_json(),
        "prompts": [asdict(prompt) for prompt in answer.prompts],
        "segs": [asdict(seg) for seg in answer.segs],
        "turns": [
            {"text": t.text, "complete": t.complete, "version": t.version, "trainable": t.trainable}
            for t in episode.turns
        ],
        "height": video.height,
        "width": video.width,
        "frames": list(video.frame_names),
        "masks": list(masks_F),
    }
    return line | ({"error": episode.error} if episode.error else {})


def expression_of(sample: Sample) -> str:
    """The expression's id in its data set: the uid is "<video>/<expression>"."""
    return sample.uid.removeprefix(f"{sample.video.uid}/")


def episode_of(line: Mapping[str, Any]) -> Episode:
    """The episode of a line, as far as it was kept: what a person looks at, no token ids."""
    turns = tuple(
        Turn((), (), (), t["text"], (), t["complete"], t["version"], t.get("trainable", True))
        for t in line["turns"]
    )
    segs = tuple(SegPrompt(**seg) for seg in line.get("segs", ()))
    facts = dict(line["answer"])
    answer = Answer(
        prompts=tuple(_prompt(p) for p in line["prompts"]),
        segs=segs,
        keyframe=facts.pop("frame", None),
        reasoning_tokens=facts.pop("reasoning_tokens", None),
        facts=facts,
    )
    return Episode(line["uid"], turns, End(line["end"]), answer, line.get("error", ""))


def content_of(path: Path) -> str:
    """A short name for the contents of a file or of all files below a folder.

    Of files above 16 MiB only evenly spread blocks are read: enough to tell two checkpoints apart, not two forgeries.
    """
    digest = hashlib.blake2b(digest_size=8)
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}:{size}\n".encode())
        step = max(BLOCK, size // BLOCKS)
        with file.open("rb") as data:
            for start in (*range(0, size, step), max(0, size - BLOCK)):
                data.seek(start)
                digest.update(data.read(BLOCK))
    return digest.hexdigest()


def digest_of(parts: Iterable[str]) -> str:
    """A short name for texts: equal only for equal ones."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _prompt(kept: Mapping[str, Any]) -> MaskPrompt:
    box = kept["box"]
    points = tuple(tuple(point) for point in kept["points"])
    return MaskPrompt(kept["frame"], tuple(box) if box else None, points, tuple(kept["labels"]))


def _same(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    keys = [key for key in dict.fromkeys([*now, *there]) if there.get(key) != now.get(key)]
    differing = [f"{key}={there.get(key)!r} there, {now.get(key)!r} now" for key in keys]
    if differing:
        raise ValueError(
            f"{folder} holds an evaluation with other settings ({'; '.join(differing[:4])}): choose another name=..., "
            "or evaluate.resume=never, which sets the old folder aside"
        )
