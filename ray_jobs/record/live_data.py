"""The data of the live page, read from a run folder: curves over the steps, and the state now.

    live = LiveData(Path("runs/demo"))
    live.now()       what the run is doing, small enough to be asked every few seconds
    live.curves()    all figures of metrics.jsonl, thinned

Needs no Ray and no running job. A line that is broken, or still being written, is left out.
"""

from __future__ import annotations

import fnmatch
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ray_jobs.record.owner import Owner, owner_of
from ray_jobs.record.replay_data import as_list, as_number, as_text, as_whole, parsed

# What the processes of a running job do (`ray_jobs.driver.live`).
FILE = "live.json"
# Most points of a curve: more than a chart has pixels for are means of neighbours.
POINTS = 400
# Last steps whose seconds tell the rest of a run.
RECENT = 20


@dataclass(frozen=True)
class Chart:
    """One chart of the page.

    Attributes:
        title: What it shows, with its unit.
        names: Its metrics, as patterns of file names.
        is_log: Whether its axis is logarithmic.
        is_total: Whether it shows the sum since the first step; a missing value is 0.
    """

    title: str
    names: tuple[str, ...]
    is_log: bool = False
    is_total: bool = False


# Charts that a run is looked at by, in this order; all other metrics have one chart each.
CHARTS = (
    Chart("Reward", ("reward",)),
    Chart("Parts of the reward", ("reward/*",)),
    Chart("Tokens of an episode", ("tokens_per_episode",)),
    Chart("Turns of an episode", ("turns",)),
    Chart("How episodes end, shares", ("end/*",)),
    Chart(
        "Gap of log-probs between engine and learner",
        ("logprob_gap_mean", "logprob_gap_max"),
        is_log=True,
    ),
    Chart("KL divergence from the reference", ("kl",)),
    Chart("Entropy, nats a token", ("entropy",)),
    Chart("Seconds of a step, as the driver waits for its stages", ("seconds/*",)),
    Chart(
        "Waits in a step, seconds of engines and learner",
        ("balance/engines_wait_s", "balance/learner_wait_s"),
    ),
    Chart("Age of the weights that played a token, in versions", ("age/*",)),
    Chart("Lost processes so far", ("deaths/*",), is_total=True),
    Chart("Memory of the largest process of each kind, GiB", ("memory/*",)),
    Chart("Memory in use on the GPUs of such a process, GiB", ("gpu_memory/*",)),
    Chart("Loss", ("loss",)),
    Chart("Gradient norm", ("grad_norm",)),
    Chart("Learning rate", ("lr",)),
)


class StepLines:
    """The lines of a growing metrics.jsonl; each is read once.

    Attributes:
        steps: Number of each step.
        columns: Values of each metric by step, seconds among them; None where there is no number.
        broken: Number of lines left out.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._begin()

    def _begin(self) -> None:
        self.steps: list[int] = []
        self.columns: dict[str, list[float | None]] = {}
        self.broken = 0
        self._end = 0
        self._last = b""

    def read(self) -> None:
        """Read what was added; all of it after the file was written anew."""
        try:
            with self.file.open("rb") as lines:
                # A resumed run drops lines. Then another one stands where the last one stood.
                lines.seek(self._end - len(self._last))
                if lines.read(len(self._last)) != self._last:
                    self._begin()
                    lines.seek(0)
                for raw in lines:
                    # A last line without its newline is still being written.
                    if not raw.endswith(b"\n"):
                        break
                    self._add(raw)
        except FileNotFoundError:
            self._begin()

    def _add(self, raw: bytes) -> None:
        self._end += len(raw)
        self._last = raw
        value = parsed(raw)
        step = as_whole(value.pop("step", None)) if isinstance(value, dict) else 0
        if not step:
            self.broken += bool(raw.strip())
            return
        seconds = value.pop("seconds", None)
        if isinstance(seconds, Mapping):
            for stage, spent in seconds.items():
                value[f"seconds/{stage}"] = spent
        for name, number in value.items():
            if name not in self.columns:
                self.columns[name] = [None] * len(self.steps)
            self.columns[name].append(as_number(number))
        self.steps.append(step)
        for column in self.columns.values():
            if len(column) < len(self.steps):
                column.append(None)


class LiveData:
    """The data of one run's page; any thread may ask."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._lines = StepLines(run / "metrics.jsonl")
        self._lock = threading.Lock()

    def now(self) -> dict[str, Any]:
        """Return what the run is and does.

        `mark` changes whenever the curves do.
        """
        with self._lock:
            self._lines.read()
            lines = self._lines
            last = lines.steps[-1] if lines.steps else 0
            loss = lines.columns.get("loss", [None])[-1]
            mark = f"{len(lines.steps)} {last} {loss}"
            step_s = _step_seconds(lines)
            broken = lines.broken
        about = about_run(self.run)
        left = max(0, about["steps"] - last)
        owner = owner_of(self.run)
        return {
            **about,
            "name": self.run.resolve().name,
            "state": state_of(self.run, owner),
            "live": None if owner is None else _live_of(self.run, owner),
            "step": last,
            "left_s": left * step_s,
            "broken": broken,
            "mark": mark,
        }

    def curves(self) -> dict[str, Any]:
        """Return the charts of CHARTS, and one for each other metric."""
        with self._lock:
            self._lines.read()
            shown = []
            taken: set[str] = set()
            for chart in CHARTS:
                names = [name for name in self._lines.columns if _is_of(name, chart)]
                taken.update(names)
                if names:
                    shown.append(_drawn(chart, names, self._lines))
            others = []
            for name in self._lines.columns:
                if name not in taken:
                    others.append(_drawn(Chart(name, (name,)), [name], self._lines))
        return {"charts": shown, "others": others}


def about_run(run: Path) -> dict[str, Any]:
    """Return system, policy and number of steps of a run, as far as its config.yaml tells them."""
    about = {"system": "", "policy": "", "steps": 0, "config": ""}
    try:
        config = yaml.safe_load((run / "config.yaml").read_bytes())
        about["system"] = as_text(config["system"]["name"])
        about["policy"] = as_text(config["policy"]["path"])
        about["steps"] = as_whole(config["train"]["steps"])
    except FileNotFoundError:
        about["config"] = "config.yaml is missing: no run has begun in this folder yet"
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        about["config"] = f"config.yaml is half written or of another version ({error!r:.200})"
    return about


def state_of(run: Path, owner: Owner | None) -> dict[str, str]:
    """Return one word for the state of a run, and a sentence.

    Args:
        owner: The process that writes it.
    """
    if owner is not None:
        return {"word": "runs", "more": f"process {owner.pid} on {owner.host}"}
    if (run / "summary.json").is_file():
        return {"word": "finished", "more": "summary.json holds its gains"}
    if not (run / "config.yaml").is_file():
        return {"word": "absent", "more": "nothing has begun in this folder yet"}
    return {"word": "ended", "more": "before its last step; the command that began it goes on"}


def _live_of(run: Path, owner: Owner) -> dict[str, Any] | None:
    """Return what the processes of a running job do; None before it has told."""
    try:
        found = parsed((run / FILE).read_bytes())
    except OSError:
        return None
    # A killed job leaves its own behind.
    if not isinstance(found, dict) or found.get("pid") != owner.pid:
        return None
    age_s = time.time() - (as_number(found.get("written")) or 0.0)
    return {"age_s": max(0.0, age_s), "processes": as_list(found.get("processes"))}


def _step_seconds(lines: StepLines) -> float:
    """Return the mean seconds of the last steps."""
    count = min(RECENT, len(lines.steps))
    total = 0.0
    for name, values in lines.columns.items():
        if name.startswith("seconds/"):
            total += sum(value or 0.0 for value in values[-RECENT:])
    return total / max(count, 1)


def _is_of(name: str, chart: Chart) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in chart.names)


def _drawn(chart: Chart, names: Sequence[str], lines: StepLines) -> dict[str, Any]:
    """Return a chart with its curves."""
    curves = []
    for name in names:
        values = lines.columns[name]
        if chart.is_total:
            values = list(itertools.accumulate(value or 0.0 for value in values))
        # A peak is what a maximum is looked at for.
        together = max if name.endswith("max") else _mean
        xs, ys = thinned(lines.steps, values, together)
        curves.append({"name": name, "steps": xs, "values": ys})
    return {"title": chart.title, "log": chart.is_log, "curves": curves}


def thinned(
    steps: Sequence[int],
    values: Sequence[float | None],
    together: Callable[[Sequence[float]], float],
    most: int = POINTS,
) -> tuple[list[int], list[float | None]]:
    """Return a curve of at most so many points; neighbours become one, at the last one's step.

    Args:
        values: None where there is no number.
        together: Makes one value of several.
    """
    if len(steps) <= most:
        return list(steps), list(values)
    edges = np.linspace(0, len(steps), most + 1).astype(int)
    xs: list[int] = []
    ys: list[float | None] = []
    for start, stop in itertools.pairwise(edges.tolist()):
        found = [value for value in values[start:stop] if value is not None]
        xs.append(steps[stop - 1])
        ys.append(together(found) if found else None)
    return xs, ys


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
