"""Benchmarks of what stands around engines and ranks, on a few short steps."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from configs.load import REPOSITORY

SMALL = {
    "pipeline": "--seconds 0.2 --prompts 4 --steps 2 --jitter 0",
    "driver": "--workers 2 --prompts 4 --group 2 --steps 2",
}
# A line of each with a figure.
FIGURE = {
    "pipeline": r"\| k=2 \| 0% \| [\d.]+ \(",
    "driver": r"2 workers: [\d.]+ \(",
}


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_and_prints_its_figures(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALL[name].split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(FIGURE[name], done.stdout), done.stdout
