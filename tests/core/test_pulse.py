"""What a process says of itself: its work, and how long it has been quiet."""

from __future__ import annotations

import math

import pytest

from core import pulse as pulse_module
from core.pulse import Pulse, Span, keep_spans, pulse, take_spans, tick, working


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pulse_module.time, "monotonic", lambda: now[0])
    return now


def test_without_work_there_is_nothing_to_worry_about(clock: list[float]) -> None:
    assert pulse() == Pulse()


def test_work_is_quiet_since_its_last_tick(clock: list[float]) -> None:
    with working("learn"):
        clock[0] += 5.0
        assert pulse() == Pulse("learn", 5.0, 5.0)
        tick()
        clock[0] += 2.0
        assert pulse() == Pulse("learn", 7.0, 2.0)
    assert pulse() == Pulse()


def test_of_several_works_the_oldest_is_named_and_the_most_patient_counts(
    clock: list[float],
) -> None:
    with working("play"):
        clock[0] += 1.0
        with working("take", patience_s=math.inf):
            clock[0] += 3.0
            assert pulse() == Pulse("play", 4.0, 3.0, math.inf)
        # The end of a work is progress.
        clock[0] += 1.0
        assert pulse() == Pulse("play", 5.0, 1.0)


def test_work_that_fails_is_over() -> None:
    with pytest.raises(ValueError, match="no"), working("score"):
        raise ValueError("no")
    assert pulse() == Pulse()


def test_spans_are_kept_on_request(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module.time, "time", lambda: clock[0] + 1000.0)
    with working("before"):
        clock[0] += 1.0
    with working("play"):
        keep_spans()
        clock[0] += 1.0
        with working("generate"):
            clock[0] += 2.0
        clock[0] += 1.0
    with working("learn"):
        clock[0] += 5.0
        spans = take_spans()
    assert spans == [
        Span("generate", 1102.0, 2.0),
        Span("play", 1101.0, 4.0),
        Span("learn", 1105.0, 5.0),
    ]
    assert take_spans() == [], "nothing is kept any more"
