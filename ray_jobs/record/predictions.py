"""Predictions of an evaluation on disk: one line for each finished expression.

    evaluation.json     their identity: settings, contents of the weights, expressions
    predictions.jsonl   {"uid", "video", "expression", "query", .., "scores": {..}, "masks": [..]}

A line is appended whole or not at all, so that a kill costs little. The newest line of an
expression counts. A failed episode is the program's fault, not the policy's, and is played again,
unless its dialogue is too long for the engine: that would only happen again.
Memory holds the places of the lines only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from configs.load import resolve
from configs.schema import PREDICTIONS, Config
from core.files import append_lines, jsonable, read_json, repair_lines, write_json
from core.segmenters import KINDS
from core.settings import identity
from core.types import Answer, End, Episode, MaskPrompt, Reward, Rle, Sample, SegPrompt, Turn
from ray_jobs.record.run_folder import seconds_of

FILE = "predictions.jsonl"
IDENTITY = "evaluation.json"

# The remedy for a broken file.
BROKEN = "play all again with evaluate.resume=never, which sets the folder aside"

# `content_of` reads at most about this many blocks of a file, of this many bytes each.
BLOCK = 1 << 16
BLOCKS = 256

# Settings of a mask head that decide on the masks it draws.
DRAWING = ("token", "threshold", "multimask", "redraw")


@dataclass
class Predictions:
    """The finished expressions of one evaluation.

    Attributes:
        _places: uid -> first byte of its newest line.
        _failed: uids of failed episodes.
        _read: number of bytes of the file scanned so far.
    """

    folder: Path
    _places: dict[str, int] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _read: int = 0

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> Predictions:
        """Continue the evaluation in `folder`, or start there.

        Raises:
            ValueError: it has another `identity` (the message names the differences), or a line
                cannot be read.
        """
        known = folder / IDENTITY
        now = jsonable(identity)
        if (folder / FILE).exists():
            there = read_json(known, BROKEN) if known.exists() else {}
            _refuse_other(folder, there, now)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(known, now)
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Predictions:
        """Load the evaluation in `folder`.

        Raises:
            ValueError: no evaluation is there, or a line cannot be read.
        """
        if not (folder / IDENTITY).is_file():
            raise ValueError(
                f"{folder}: no {IDENTITY} there: give the folder of an evaluation, "
                "runs/<name>/evaluate"
            )
        repair_lines(folder / FILE)
        predictions = cls(folder)
        predictions._scan()
        return predictions

    @property
    def identity(self) -> dict[str, Any]:
        """The settings and contents behind these predictions."""
        return read_json(self.folder / IDENTITY, BROKEN)

    @property
    def finished(self) -> set[str]:
        """Uids of the expressions that need not be played again."""
        return set(self._places) - self._failed

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines of `line_of`; they are on disk afterwards."""
        append_lines(self.folder / FILE, *lines)
        self._scan()

    def get(self, uid: str) -> dict[str, Any] | None:
        """Return the newest line of an expression."""
        if uid not in self._places:
            return None
        with (self.folder / FILE).open("rb") as lines:
            lines.seek(self._places[uid])
            return json.loads(lines.readline())

    def lines(self, uids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the newest line of each of `uids`, in their order; missing ones are left out."""
        for uid in uids:
            line = self.get(uid)
            if line is not None:
                yield line

    def _scan(self) -> None:
        """Note the places of all lines after the last scan."""
        file = self.folder / FILE
        if not file.exists():
            return
        with file.open("rb") as lines:
            lines.seek(self._read)
            for raw in lines:
                try:
                    line = json.loads(raw)
                    uid = line["uid"]
                    too_long = line.get("too_long", False)
                    failed = line["end"] == End.FAILED.value and not too_long
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f"{file}: the line at byte {self._read} is no prediction ({error}): "
                        "take it out, or play all again with evaluate.resume=never"
                    ) from error
                self._places[uid] = self._read
                if failed:
                    self._failed.add(uid)
                else:
                    self._failed.discard(uid)
                self._read += len(raw)


def line_of(
    sample: Sample,
    episode: Episode,
    masks_F: Sequence[Rle | None],
    reward: Reward | None,
    scores: Mapping[str, float],
) -> dict[str, Any]:
    """Return everything to keep of one expression, ready for JSON."""
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
        "seconds": seconds_of(episode, reward),
        "turns": [_turn_line(turn) for turn in episode.turns],
        "height": video.height,
        "width": video.width,
        "frames": list(video.frame_names),
        "masks": list(masks_F),
    }
    if episode.error:
        line["error"] = episode.error
    if episode.too_long:
        line["too_long"] = True
    return line


def expression_of(sample: Sample) -> str:
    """Return the expression's id in its data set: the uid is "<video>/<expression>"."""
    return sample.uid.removeprefix(f"{sample.video.uid}/")


def episode_of(line: Mapping[str, Any]) -> Episode:
    """Return the kept part of a line's episode: texts and answer, no token ids."""
    turns = []
    for turn in line["turns"]:
        turns.append(
            Turn(
                prompt_ids=(),
                completion_ids=(),
                logprobs=(),
                text=turn["text"],
                media=(),
                complete=turn["complete"],
                version=turn["version"],
                trainable=turn.get("trainable", True),
            )
        )
    facts = dict(line["answer"])
    answer = Answer(
        prompts=tuple(_prompt(prompt) for prompt in line["prompts"]),
        segs=tuple(SegPrompt(**seg) for seg in line.get("segs", ())),
        keyframe=facts.pop("frame", None),
        reasoning_tokens=facts.pop("reasoning_tokens", None),
        facts=facts,
    )
    end = End(line["end"])
    return Episode(line["uid"], tuple(turns), end, answer, error=line.get("error", ""))


def content_of(path: Path) -> str:
    """Return a short name for the contents of a file or of all files below a folder.

    Above 16 MiB only evenly spread blocks of a file are read. That tells two checkpoints apart, not
    two forgeries.
    """
    digest = hashlib.blake2b(digest_size=8)
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}:{size}\n".encode())
        step = max(BLOCK, size // BLOCKS)
        with file.open("rb") as data:
            # The last block is always read.
            starts = [*range(0, size, step), max(0, size - BLOCK)]
            for start in starts:
                data.seek(start)
                digest.update(data.read(BLOCK))
    return digest.hexdigest()


def influences(cfg: Config) -> dict[str, Any]:
    """Return all settings and contents that decide on predictions, apart from the samples."""
    found = identity(cfg, PREDICTIONS)
    found["contents of policy.path"] = content_of(resolve(cfg.policy.path))
    if cfg.mask.token:
        for name in DRAWING:
            found[f"mask.{name}"] = getattr(cfg.mask, name)
    kind = KINDS[cfg.segmenter.kind]
    for name in kind.files:
        # A checkout changes in many files that nothing reads.
        if name != "xmem_path":
            content = content_of(resolve(getattr(cfg.segmenter, name)))
            found[f"contents of segmenter.{name}"] = content
    for name in kind.settings:
        found[f"segmenter.{name}"] = getattr(cfg.segmenter, name)
    return found


def digest_of(parts: Iterable[str]) -> str:
    """Return a short name for texts, equal only for equal ones."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _turn_line(turn: Turn) -> dict[str, Any]:
    return {
        "text": turn.text,
        "complete": turn.complete,
        "version": turn.version,
        "trainable": turn.trainable,
    }


def _prompt(kept: Mapping[str, Any]) -> MaskPrompt:
    box = tuple(kept["box"]) if kept["box"] else None
    points = tuple((x, y) for x, y in kept["points"])
    return MaskPrompt(kept["frame"], box, points, tuple(kept["labels"]))


def _refuse_other(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError if two identities differ, with the first differences."""
    differing = []
    for key in dict.fromkeys([*now, *there]):
        if there.get(key) != now.get(key):
            differing.append(f"{key}={there.get(key)!r} there, {now.get(key)!r} now")
    if differing:
        raise ValueError(
            f"{folder} holds an evaluation with other settings ({'; '.join(differing[:4])}): "
            "choose another name=..., or evaluate.resume=never, which sets the old folder aside"
        )
