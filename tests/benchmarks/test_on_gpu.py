"""The script for a borrowed GPU works: its steps at tiny size, and a step that fails."""

from __future__ import annotations

import pytest

from benchmarks import on_gpu


@pytest.mark.parametrize("name", ["rewards", "sam2", "vision"])
def test_steps_give_a_table(name: str) -> None:
    header, rule, row = on_gpu.STEPS[name](True)
    assert header.count("|") == rule.count("|") == row.count("|")


def test_every_step_has_a_limit_and_all_fit_into_ten_minutes() -> None:
    assert list(on_gpu.commands(tiny=False)) == list(on_gpu.LIMITS)
    assert sum(on_gpu.LIMITS.values()) < 600


def test_a_failed_step_is_part_of_the_page() -> None:
    lines = on_gpu.measured("sam2", ["benchmarks.nothing"])
    assert "Failed with exit code 1:" in lines
    assert "No module named benchmarks.nothing" in lines[-2]
