"""What an idle worker repeats of a straggler's work."""

from __future__ import annotations

import math

import pytest

from actors.stealing import Underway, least_loaded, theft

# Flights as "worker:seconds", with a "*" if the task is with a second worker as well.
CASES = {
    "nothing to do": ("", (0, 1), 2, 5.0, None),
    "no worker is up": ("0:1", (), 2, 5.0, None),
    "one worker has nobody to take from": ("0:1 0:1 0:1 0:1", (0,), 2, 5.0, None),
    "a full batch of its own": ("0:1 0:1 0:1 0:1 1:1 1:1", (0, 1), 2, 5.0, None),
    "what is decoded already stays": ("0:1 0:1", (0, 1), 2, 5.0, None),
    "the last in the queue": ("0:1 0:1 0:1 0:1", (0, 1), 2, 5.0, (3, 1)),
    "room beside own work": ("0:1 0:1 0:1 1:1", (0, 1), 2, 5.0, (2, 1)),
    "each task once": ("0:1 0:1 0:1 0:1* 1:1*", (0, 1), 2, 5.0, (2, 1)),
    "all are doubled": ("0:1 0:1 0:1* 1:1*", (0, 1), 2, 5.0, None),
    "from the one with the most": ("0:1 0:1 0:1 1:1 1:1 1:1 1:1", (0, 1, 2), 2, 5.0, (6, 2)),
    "late": ("0:11", (0, 1), 2, 5.0, (0, 1)),
    "just in time": ("0:10", (0, 1), 2, 5.0, None),
    "before the first result nobody is late": ("0:999", (0, 1), 2, math.inf, None),
    "late, but its own": ("1:11 0:1 0:1", (0, 1), 2, 5.0, None),
    "from one that is gone": ("7:11", (0, 1), 2, 5.0, (0, 0)),
}


def flights(text: str) -> list[Underway]:
    found = []
    for word in text.split():
        worker, _, seconds = word.rstrip("*").partition(":")
        found.append(Underway(int(worker), float(seconds), doubled=word.endswith("*")))
    return found


@pytest.mark.parametrize("case", CASES)
def test_theft(case: str) -> None:
    text, workers, batch, longest_s, expected = CASES[case]
    assert theft(flights(text), workers, batch, longest_s) == expected


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, 3),
        ({3: 1}, 5),
        ({3: 1, 5: 0, 9: 0}, 5),
        ({3: 2, 5: 1, 9: 1}, 5),
        ({7: 0, 3: 1}, 5),
    ],
)
def test_the_least_loaded_worker(load: dict[int, int], expected: int) -> None:
    assert least_loaded([3, 5, 9], load) == expected
    assert least_loaded([], load) is None
