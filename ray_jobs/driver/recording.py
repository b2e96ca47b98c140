"""The record of a run's steps: each is recorded once, however often it is learned.

After a death the steps since the last checkpoint are learned again from the group log, to the same
weights. Those on record stay there as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.lost import Deaths
from cluster.metrics import Figures
from core.types import Group
from ray_jobs.driver.keeping import Keeping
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.progress import Progress
from ray_jobs.record.run_folder import RunFolder


@dataclass
class Recording:
    """The steps of a run in its folder, the tracker and the display.

    Attributes:
        record: The run's files.
        tracker: The copy of metrics in MLflow.
        progress: The display.
        deaths: Lost processes; those since the last record go into the next one.
        last: The last step on record.
        keeping: Episodes kept in full; None keeps none.
        figures: The last step for Prometheus; None shows nothing.
        is_repeat: Whether the last learned step was on record before.
    """

    record: RunFolder
    tracker: MlflowWriter
    progress: Progress
    deaths: Deaths
    last: int
    keeping: Keeping | None = None
    figures: Figures | None = None
    is_repeat: bool = False

    @classmethod
    def open(
        cls,
        record: RunFolder,
        tracker: MlflowWriter,
        progress: Progress,
        deaths: Deaths,
        keeping: Keeping | None = None,
        figures: Figures | None = None,
    ) -> Recording:
        """Go on behind the last step on record."""
        last = record.last_step()
        # A step counts from its line on; its episodes were written before.
        recording = cls(record, tracker, progress, deaths, last, keeping, figures)
        recording.forget_after(last)
        # A kill may have come between the two files.
        if last and not tracker.has(last, "reward"):
            recording.track(record.steps()[-1])
        return recording

    def drop(self, step: int) -> None:
        """Drop a step and those behind it, if they are on record: their groups are new ones."""
        if step <= self.last:
            self.forget_after(step - 1)
            self.last = step - 1

    def forget_after(self, step: int) -> None:
        """Drop the record of all later steps."""
        self.record.truncate_after(step)
        if self.keeping is not None:
            self.keeping.forget_after(step)

    def write(
        self,
        step: int,
        metrics: Mapping[str, float],
        seconds: Mapping[str, float],
        groups: Sequence[Group],
    ) -> None:
        """Write a step to the run folder, then to the tracker and the display; once."""
        self.is_repeat = step <= self.last
        if self.is_repeat:
            return
        metrics = {**metrics, **self.deaths.metrics()}
        # The run folder comes first: it holds the truth if the tracker or the display fails.
        words = None if self.keeping is None else self.keeping.words
        self.record.write_episodes(step, groups, words)
        self.record.write_step(step, metrics, seconds)
        self.track({"step": step, "seconds": seconds, **metrics})
        self.progress.step(step, metrics, seconds)
        self.last = step
        if self.keeping is not None:
            self.keeping.step(step, groups)

    def track(self, line: Mapping[str, Any]) -> None:
        """Hand a line of metrics.jsonl to the tracker, and to Prometheus."""
        metrics = dict(line)
        step = metrics.pop("step")
        for stage, spent in metrics.pop("seconds").items():
            metrics[f"seconds/{stage}"] = spent
        self.tracker.metrics(step, metrics)
        if self.figures is not None:
            lost = {f"lost/{kind}": float(count) for kind, count in self.deaths.total.items()}
            self.figures.show(step, metrics | lost)
