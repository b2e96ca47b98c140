"""How many engines find room on some nodes."""

from __future__ import annotations

import pytest

from cluster.room import slots

GPU = {"GPU": 1.0, "CPU": 1.0}


@pytest.mark.parametrize(
    ("free", "need", "expected"),
    [
        ([], GPU, 0),
        ([{"GPU": 8, "CPU": 96}], GPU, 8),
        ([{"GPU": 8, "CPU": 3}], GPU, 3),
        ([{"CPU": 96}], GPU, 0),
        # An engine cannot span nodes.
        ([{"GPU": 3, "CPU": 9}, {"GPU": 3, "CPU": 9}], {"GPU": 2.0, "CPU": 1.0}, 2),
        ([{"GPU": 0.9, "CPU": 9}], GPU, 0),
        ([{"GPU": 0.9999999, "CPU": 9}], GPU, 1),
        ([{"CPU": 8}, {"CPU": 6}, {"CPU": 3}], {"CPU": 4.0}, 3),
    ],
)
def test_slots(free: list[dict[str, float]], need: dict[str, float], expected: int) -> None:
    assert slots(free, need) == expected
