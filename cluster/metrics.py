"""Figures of a run for Prometheus, by way of Ray, which serves those of each node at a port.

    with shown({"run": "demo"}) as figures:
        figures.show(step, {"reward": 1.5, "reward/format": 0.9})
        # ray_rayvos_reward{of="",run="demo"} 1.5
        # ray_rayvos_reward{of="format",run="demo"} 0.9

vLLM's own figures come from the processes of the engines (`vllm_figures`). The dashboard for
Grafana is `grafana.json` beside this file.

Ray does not keep a gauge. A process sends those that were set since its last report, every 10 s
(`RAY_metrics_report_interval_ms`), and the node serves what it got for the time of two reports. A
step of a training takes longer, and so does the pause of an engine. So a thread of each process
that has gauges sets them again.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

# Before each of our names; Ray writes `ray_` before all.
PREFIX = "rayvos_"
# Label with the part of a name behind the slash.
PART = "of"
# Seconds between two settings of a gauge: several in the time of a report.
AGAIN_S = 3.0


class LastingGauge(Gauge):
    """A gauge whose values can be set again."""

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(name, description, tag_keys)
        self._values: dict[frozenset[tuple[str, str]], float] = {}
        self._turn = threading.Lock()

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Set the value of a series, and remember it. None changes nothing."""
        if value is None:
            return
        with self._turn:
            self._values[frozenset((tags or {}).items())] = value
            super().set(value, tags)

    def again(self) -> None:
        """Set the last value of each series once more."""
        with self._turn:
            for tags, value in self._values.items():
                super().set(value, dict(tags))

    def forget(self, tags: Mapping[str, str]) -> None:
        """Leave a series to Ray, which forgets it."""
        with self._turn:
            self._values.pop(frozenset(tags.items()), None)


class Gauges:
    """Gauges of one process, set again by a thread until the end."""

    def __init__(self) -> None:
        self._made: list[LastingGauge] = []
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="figures", daemon=True)
        self._thread.start()

    def make(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> LastingGauge:
        """Return a new gauge; arguments as of Ray's."""
        gauge = LastingGauge(name, description, tag_keys)
        with self._turn:
            self._made.append(gauge)
        return gauge

    def end(self) -> None:
        """Leave all gauges to Ray, which forgets them."""
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._ended.wait(AGAIN_S):
            with self._turn:
                made = list(self._made)
            for gauge in made:
                gauge.again()


class Figures:
    """The last figures of one run."""

    def __init__(self, tags: Mapping[str, str], gauges: Gauges) -> None:
        """Show nothing yet.

        Args:
            tags: Labels of all figures.
        """
        self._tags = dict(tags)
        self._gauges = gauges
        self._by_name: dict[str, LastingGauge] = {}
        self._shown: set[str] = set()

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the figures of a step.

        Those that it lacks, or that are no numbers, are gone after the time of three reports.
        """
        values = {"step": float(step)}
        for name, value in metrics.items():
            if math.isfinite(value):
                values[name] = float(value)
        for name, value in values.items():
            gauge, tags = self._series(name)
            gauge.set(value, tags)
        for name in self._shown - set(values):
            gauge, tags = self._series(name)
            gauge.forget(tags)
        self._shown = set(values)

    def _series(self, name: str) -> tuple[LastingGauge, dict[str, str]]:
        """Return the gauge of a metric, and its tags there."""
        exported, part = exported_name(name)
        if exported not in self._by_name:
            described = f"{exported.removeprefix(PREFIX)} of the last step"
            labels = (*self._tags, PART)
            self._by_name[exported] = self._gauges.make(exported, described, labels)
        return self._by_name[exported], {**self._tags, PART: part}


@contextmanager
def shown(tags: Mapping[str, str]) -> Iterator[Figures]:
    """Yield the figures of a run, which stay to be read while the block runs.

    Args:
        tags: Labels of all figures.
    """
    gauges = Gauges()
    try:
        yield Figures(tags, gauges)
    finally:
        gauges.end()


def exported_name(metric: str) -> tuple[str, str]:
    """Return the name of a metric for Prometheus, without Ray's prefix, and its label `of`."""
    head, _, part = metric.partition("/")
    return PREFIX + re.sub(r"\W", "_", head, flags=re.ASCII), part


def vllm_figures() -> list[Any]:
    """Return what an engine takes to pass vLLM's own figures on, in an actor's process."""
    from vllm.v1.metrics import ray_wrappers

    # vLLM looks for Ray Serve as well, which it needs for the value of one label only, and whose
    # packages a training does not have.
    ray_wrappers.ray_metrics = SimpleNamespace(
        Counter=Counter, Gauge=Gauges().make, Histogram=Histogram
    )
    return [ray_wrappers.RayPrometheusStatLogger]


def addresses() -> list[str]:
    """Return where Prometheus reads the figures of each node."""
    found = []
    for node in ray.nodes():
        if node["Alive"] and node["MetricsExportPort"]:
            found.append(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}")
    return found
