"""Figures of a run for Prometheus, by way of Ray, which serves those of each node at a port.

    figures = Figures({"run": "demo"})
    figures.show(step, {"reward": 1.5, "reward/format": 0.9})
    # ray_rayvos_reward{of="",run="demo"} 1.5
    # ray_rayvos_reward{of="format",run="demo"} 0.9

vLLM's own figures come from the processes of the engines (`vllm_figures`). The dashboard for
Grafana is `grafana.json` beside this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import ray
import ray.util.metrics
from ray.util.metrics import Gauge

# Before each of our names; Ray writes `ray_` before all.
PREFIX = "rayvos_"
# Label with the part of a name behind the slash.
PART = "of"


class Figures:
    """The last figures of one run."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        """Show nothing yet.

        Args:
            tags: Labels of all figures.
        """
        self._tags = dict(tags)
        self._gauges: dict[str, Gauge] = {}
        self._shown: set[str] = set()

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the figures of a step. Those that it lacks are no numbers from now on."""
        values = dict.fromkeys(self._shown, math.nan) | {"step": float(step)}
        for name, value in metrics.items():
            values[name] = float(value)
        for name, value in values.items():
            exported, part = exported_name(name)
            gauge = self._gauge(exported)
            gauge.set(value, {**self._tags, PART: part})
        self._shown = set(values)

    def _gauge(self, exported: str) -> Gauge:
        if exported not in self._gauges:
            described = f"{exported.removeprefix(PREFIX)} of the last step"
            self._gauges[exported] = Gauge(exported, described, (*self._tags, PART))
        return self._gauges[exported]


def exported_name(metric: str) -> tuple[str, str]:
    """Return the name of a metric for Prometheus, without Ray's prefix, and its label `of`."""
    head, _, part = metric.partition("/")
    return PREFIX + re.sub(r"\W", "_", head, flags=re.ASCII), part


def vllm_figures() -> list[Any]:
    """Return what an engine takes to pass vLLM's own figures on, in an actor's process."""
    from vllm.v1.metrics import ray_wrappers

    # vLLM looks for Ray Serve as well, which it needs for the value of one label only, and whose
    # packages a training does not have.
    ray_wrappers.ray_metrics = ray.util.metrics
    return [ray_wrappers.RayPrometheusStatLogger]


def addresses() -> list[str]:
    """Return where Prometheus reads the figures of each node."""
    found = []
    for node in ray.nodes():
        if node["Alive"] and node["MetricsExportPort"]:
            found.append(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}")
    return found
