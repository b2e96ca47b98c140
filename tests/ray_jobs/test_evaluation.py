"""What all evaluations share: paired gains, and when failed episodes stop a job."""

from __future__ import annotations

import math

import pytest

from core.types import End, Episode
from ray_jobs.evaluation import paired_gain, stop_on_failures


def test_paired_gain() -> None:
    """Differences 1, 2, 3, 6: mean 3, s = sqrt(14/3), standard error s / 2."""
    before = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}
    after = {"d": 46.0, "a": 11.0, "b": 22.0, "c": 33.0}
    assert paired_gain(before, after) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2))


def _episodes(failed: int, total: int, error: str) -> list[Episode]:
    return [Episode("v/0", (), End.FAILED if i < failed else End.DONE, error=error) for i in range(total)]


def test_failures_below_the_bound_are_borne() -> None:
    stop_on_failures(_episodes(1, 20, "boom"), 0.05)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    error = "Traceback (most recent call last):\n  File x\nKeyError: 'frames'"
    with pytest.raises(RuntimeError, match="2 of 20 episodes failed(.|\n)*File x"):
        stop_on_failures(_episodes(2, 20, error), 0.05)


def test_a_fault_of_the_data_is_told_in_one_line() -> None:
    error = "Traceback (most recent call last):\n  File x\nValueError: v.mp4: the video stops after frame 3: copy it"
    with pytest.raises(ValueError, match=r"^v.mp4: the video stops after frame 3: copy it \(20 of 20 .*\)$"):
        stop_on_failures(_episodes(20, 20, error), 0.05)
