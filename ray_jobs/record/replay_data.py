"""The data of the replay page: scripts that a browser loads from disk, each when it is looked at.

    replay/data/index.js                  a row for each episode: all to list, filter and sort by
    replay/data/episodes_<source>_K.js    the texts of some groups
    replay/data/kept_<name>.js            pictures, tokens and masks of the kept groups of one step

A page that is opened from disk may load scripts, but no JSON.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import systems
from core.types import Vision
from ray_jobs.record.kept import FOLDER, kept_folder
from ray_jobs.record.predictions import FILE as PREDICTIONS

# Episodes of a script: small enough to load in no time, so that few are needed for a group.
CHUNK = 200
# Bounds of the whole numbers that a browser counts exactly.
EXACT = 2**53
COLUMNS = (
    "source",
    "step",
    "sample",
    "episode",
    "reward",
    "advantage",
    "end",
    "version",
    "turns",
    "tokens",
    "score",
    "seconds",
    "kept",
    "chunk",
)
# Digits of a figure in the index. The texts have all of them.
DIGITS = 7


@dataclass(frozen=True)
class Source:
    """Where episodes come from: the training, an evaluation in it, or the job `evaluate`.

    Attributes:
        file: Its lines.
        how: Empty for the training.
        step: Step of the evaluation.
        predicted: Whether the lines are those of `ray_jobs.record.predictions`.
    """

    file: Path
    how: str = ""
    step: int = 0
    predicted: bool = False

    @property
    def name(self) -> str:
        """The part of its scripts' names; more episodes later do not change older scripts."""
        return f"eval_{self.step}_{self.how}" if self.how else "training"

    def kept_name(self, step: int, chunk: int) -> str:
        """Return the name of the file with the kept groups of a step."""
        if self.predicted:
            return f"{self.name}_{chunk}"
        return self.name if self.how else f"step_{step}"


@dataclass
class Table:
    """The index as it grows, column by column; names are numbered in order of appearance."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    about: list[list[str]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    broken: int = 0

    def __post_init__(self) -> None:
        for name in COLUMNS:
            self.columns[name] = []

    def sample(self, line: Mapping[str, Any]) -> int:
        """Return the number of a line's sample; its query may come with a later line."""
        uid = as_text(line.get("sample"))
        number = self.samples.setdefault(uid, len(self.samples))
        if number == len(self.about):
            self.about.append([uid, "", ""])
        query = as_text(line.get("query"))
        if query:
            self.about[number] = [uid, query, as_text(line.get("kind"))]
        return number

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an episode."""
        for name in COLUMNS:
            self.columns[name].append(row[name])


def write_data(run: Path) -> dict[str, Any]:
    """Write the data of a run for its replay page; return what the page's list of runs says.

    Raises:
        ValueError: The folder holds no episodes.
    """
    sources = sources_of(run)
    fresh = run / FOLDER / ".data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    kept = _write_kept(run, fresh)
    table = Table()
    for number, source in enumerate(sources):
        _write_source(fresh, number, source, kept, table)
    index = _index(run, sources, table)
    write_script(fresh / "index.js", index)

    data = run / FOLDER / "data"
    shutil.rmtree(data, ignore_errors=True)
    fresh.rename(data)
    return {
        "episodes": len(table.columns["step"]),
        "broken": table.broken,
        "kept": sum(table.columns["kept"]),
    }


def sources_of(run: Path) -> list[Source]:
    """Return the training and the evaluations of a run, evaluations by their step.

    Raises:
        ValueError: The folder holds no episodes.
    """
    if not run.is_dir():
        raise ValueError(f"{run}: no such folder: give the folder of a run, runs/<name>")
    sources = []
    if (run / "episodes.jsonl").is_file():
        sources.append(Source(run / "episodes.jsonl"))
    evaluations = []
    for file in (run / "evaluation").glob("step_*/*/episodes.jsonl"):
        step = as_whole(file.parent.parent.name.removeprefix("step_"))
        evaluations.append(Source(file, file.parent.name, step))
    evaluations.sort(key=_by_step)
    sources += evaluations
    if (run / PREDICTIONS).is_file():
        sources.append(Source(run / PREDICTIONS, "predictions", predicted=True))
    if not sources:
        raise ValueError(
            f"{run}: no episodes.jsonl there: give the folder of a run that has finished a step, "
            "runs/<name>"
        )
    return sources


def _by_step(source: Source) -> tuple[int, str]:
    return source.step, source.how


def _write_source(
    folder: Path, number: int, source: Source, kept: Mapping[str, set[str]], table: Table
) -> None:
    """Write the texts of a source and its rows."""
    for chunk, lines in enumerate(_chunks(source, table)):
        groups: dict[str, Any] = {}
        for line in lines:
            row = row_of(line, source, table)
            uid = as_text(line.get("sample"))
            of_step = kept.get(source.kept_name(row["step"], chunk), set())
            if "kept" in line:
                groups[uid] = line.pop("kept")
                of_step = set(groups)
            is_kept = int(uid in of_step)
            table.add(row | {"source": number, "kept": is_kept, "chunk": chunk})
        write_script(folder / f"episodes_{source.name}_{chunk}.js", lines)
        if groups:
            write_script(folder / f"kept_{source.kept_name(0, chunk)}.js", groups)


def _chunks(source: Source, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of a source in pieces of whole groups."""
    lines: list[dict[str, Any]] = []
    before: tuple[Any, ...] = ()
    for line in whole_lines(source.file, table):
        if source.predicted:
            line = of_prediction(line)
        group = (line.get("step"), line.get("sample"))
        if len(lines) >= CHUNK and group != before:
            yield lines
            lines = []
        before = group
        lines.append(line)
    if lines:
        yield lines


def of_prediction(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of predictions.jsonl as one of episodes.jsonl, its masks under "kept"."""
    masks: list[list[Any]] = []
    for frame, rle in enumerate(as_list(line.get("masks"))):
        if rle is not None:
            masks.append([frame, rle])
    kept = {
        "height": line.get("height"),
        "width": line.get("width"),
        "num_frames": len(as_list(line.get("frames"))),
        "frames": [],
        "truth": [],
        "episodes": [{"episode": 0, "turns": [], "masks": masks}],
    }
    found = {"sample": line.get("uid"), "facts": line.get("answer"), "kept": kept}
    found["places"] = line.get("prompts")
    for name in ("query", "kind", "end", "reward", "parts", "scores", "seconds", "turns", "error"):
        found[name] = line.get(name)
    return found


def row_of(line: Mapping[str, Any], source: Source, table: Table) -> dict[str, Any]:
    """Return the row of an episode; what is missing or of another form is nothing."""
    turns = [turn for turn in as_list(line.get("turns")) if isinstance(turn, Mapping)]
    end = as_text(line.get("end"))
    return {
        "step": source.step if source.how else as_whole(line.get("step")),
        "sample": table.sample(line),
        "episode": as_whole(line.get("episode")),
        "reward": short(as_number(line.get("reward"))),
        "advantage": short(as_number(line.get("advantage"))),
        "end": table.ends.setdefault(end, len(table.ends)),
        "version": max([as_whole(turn.get("version")) for turn in turns], default=0),
        "turns": len(turns),
        "tokens": sum(as_whole(turn.get("tokens")) for turn in turns),
        "score": short(jf_of(line.get("scores"))),
        "seconds": short(played_s(line.get("seconds"))),
    }


def short(value: float | None) -> float | None:
    """Return a figure with few digits."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def packed(values: Sequence[Any]) -> Any:
    """Return a column with equal neighbours as {"runs": [value, number, ...]}, if that is shorter.

    A browser reads the index before it shows anything.
    """
    runs: list[Any] = []
    for value, equal in itertools.groupby(values):
        runs += [value, len(list(equal))]
    return {"runs": runs} if len(runs) < len(values) else list(values)


def jf_of(scores: Any) -> float | None:
    """Return J&F of the scores of an evaluation; None without them."""
    if not isinstance(scores, Mapping):
        return None
    j = as_number(scores.get("J"))
    f = as_number(scores.get("F"))
    return None if j is None or f is None else (j + f) / 2


def played_s(seconds: Any) -> float | None:
    """Return the seconds in which an episode was played; None for a run that did not measure it."""
    return as_number(seconds.get("play")) if isinstance(seconds, Mapping) else None


def whole_lines(file: Path, table: Table) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of lines; a broken line is counted.

    A last line without its newline is still being written.
    """
    with file.open("rb") as lines:
        for raw in lines:
            if not raw.endswith(b"\n"):
                return
            value = parsed(raw)
            if isinstance(value, dict):
                yield value
            elif raw.strip():
                table.broken += 1


def parsed(raw: bytes) -> Any:
    """Return the value of a line of JSON, numbers that are none as None; None if it is broken."""
    try:
        return json.loads(raw, parse_constant=_nothing)
    except (ValueError, RecursionError):
        return None


def _nothing(constant: str) -> None:
    return None


def _write_kept(run: Path, folder: Path) -> dict[str, set[str]]:
    """Write the kept groups, a script for each file; return their samples by the file's name."""
    found: dict[str, set[str]] = {}
    files = sorted(kept_folder(run).glob("*.jsonl"))
    for file in files:
        groups = {}
        for line in whole_lines(file, Table()):
            groups[as_text(line.get("sample"))] = line
        if groups:
            write_script(folder / f"kept_{file.stem}.js", groups)
            found[file.stem] = set(groups)
    return found


def _index(run: Path, sources: Sequence[Source], table: Table) -> dict[str, Any]:
    """Return all that the page knows before it looks at an episode."""
    steps = []
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        for line in whole_lines(metrics, table):
            steps.append(_step(line))
    named = []
    for source in sources:
        named.append(
            {
                "name": source.name,
                "how": source.how,
                "step": source.step,
                "predicted": source.predicted,
            }
        )
    columns = {name: packed(values) for name, values in table.columns.items()}
    return {
        "name": run.resolve().name,
        "sources": named,
        "samples": table.about,
        "ends": list(table.ends),
        "steps": steps,
        "columns": columns,
        "broken": table.broken,
        **system_of(run),
    }


def _step(line: Mapping[str, Any]) -> dict[str, Any]:
    seconds = line.get("seconds")
    spent = dict(seconds) if isinstance(seconds, Mapping) else {}
    return {
        "step": as_whole(line.get("step")),
        "reward": as_number(line.get("reward")),
        "seconds": spent,
    }


def system_of(run: Path) -> dict[str, Any]:
    """Return the name of a run's system and the weights of its reward's terms.

    A configuration of another release, or none, leaves both out.
    """
    name = ""
    try:
        # Other sections may be of another release.
        section = yaml.safe_load((run / "config.yaml").read_bytes())["system"]
        name = str(section["name"])
        # Sizes of images are not the question here, and the policy may be elsewhere.
        system: Any = systems.make(name, section["options"], Vision(cell=1))
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return {"system": name, "weights": {}}
    return {"system": name, "weights": dict(system.options.all_weights)}


def write_script(file: Path, value: Any) -> None:
    """Write a value as a script that hands it to the page."""
    file.write_text(script(file.stem, value), encoding="ascii")


def script(name: str, value: Any) -> str:
    """Return the script that hands a value to the page.

    The value is text of JSON in a string: whatever a model wrote, nothing of it is program, and
    all is ASCII without a mark that could end the script.
    """
    inner = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    literal = json.dumps(inner).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"rayvos.arrived({json.dumps(name)},{literal});\n"


def plain(value: Any) -> Any:
    """Return a value with None for each number that is none: JSON has no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_number(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < EXACT else None


def as_whole(value: Any) -> int:
    """Return a whole number, also from its digits; 0 for anything else."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if abs(value) < EXACT else 0
