"""Figures for Prometheus: their names, and the names in the dashboard for Grafana."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.metrics import exported_name
from configs.load import REPOSITORY

DASHBOARD = REPOSITORY / "cluster/grafana.json"
NAME = re.compile(r"\bray_\w+")
# What Prometheus' counters and histograms write behind a name.
ENDS = re.compile(r"_(total|sum|count|bucket)$")


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def names() -> set[str]:
    """All names of metrics in the dashboard, without Ray's prefix."""
    found: set[str] = set()
    for panel in panels():
        for target in panel["targets"]:
            found.update(NAME.findall(target["expr"]))
    return {name.removeprefix("ray_") for name in found}


def source_of(module: str) -> str:
    """The text of an installed module, which is not imported."""
    package, _, inside = module.partition(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*inside.split(".")).with_suffix(".py").read_text()


@pytest.mark.parametrize(
    ("metric", "exported"),
    [
        ("reward", ("rayvos_reward", "")),
        ("reward/format", ("rayvos_reward", "format")),
        ("logprob_gap_of_age/0", ("rayvos_logprob_gap_of_age", "0")),
        ("J&F", ("rayvos_J_F", "")),
        ("größe/ünï/x", ("rayvos_gr__e", "ünï/x")),
    ],
)
def test_names_are_those_that_prometheus_takes(metric: str, exported: tuple[str, str]) -> None:
    assert exported_name(metric) == exported
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", exported[0])


def test_vllms_names_are_in_vllm() -> None:
    theirs = {name for name in names() if name.startswith("vllm_")}
    assert len(theirs) >= 5
    source = source_of("vllm.v1.metrics.loggers")
    for name in theirs:
        plain = ENDS.sub("", name.removeprefix("vllm_"))
        assert f'"vllm:{plain}"' in source, name


def test_rays_names_are_in_ray() -> None:
    theirs = {name for name in names() if name.startswith("node_")}
    assert {"node_gram_used", "node_mem_used"} <= theirs
    source = source_of("ray.dashboard.modules.reporter.reporter_agent")
    for name in theirs:
        assert f'"{name}"' in source, name


def test_no_other_names() -> None:
    for name in names():
        assert name.startswith(("rayvos_", "vllm_", "node_")), name


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))
        assert place["x"] + place["w"] <= 24
