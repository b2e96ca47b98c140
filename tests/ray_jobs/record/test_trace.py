"""The Chrome trace: fields and units of its events, and lanes without overlaps."""

from __future__ import annotations

import itertools
import random

from core.pulse import Span
from ray_jobs.record.trace import chrome_trace, lanes


def test_a_span_is_a_complete_event_in_microseconds() -> None:
    spans = {
        "driver": [Span("play", 100.5, 2.0)],
        "rollout actor 0": [Span("play_group", 100.25, 1.0), Span("generate", 100.5, 0.5)],
        "reward actor 0": [],
    }
    trace = chrome_trace(spans)
    events = trace["traceEvents"]
    complete = {event["name"]: event for event in events if event["ph"] == "X"}
    assert set(complete) == {"play", "play_group", "generate"}
    assert (complete["play"]["ts"], complete["play"]["dur"]) == (250_000.0, 2_000_000.0)
    assert complete["play_group"]["ts"] == 0.0
    names = {}
    for event in events:
        if event["name"] == "process_name":
            names[event["pid"]] = event["args"]["name"]
    assert names[complete["play"]["pid"]] == "driver"
    assert names[complete["generate"]["pid"]] == "rollout actor 0"
    # A viewer takes two spans in one lane for nested ones.
    assert complete["generate"]["tid"] != complete["play_group"]["tid"]


def test_no_lane_has_overlapping_spans_and_none_is_lost() -> None:
    rng = random.Random(0)
    spans = []
    for number in range(200):
        spans.append(Span(str(number), rng.random() * 50, rng.random()))
    dealt = lanes(spans)
    assert sorted(span.name for lane in dealt for span in lane) == sorted(map(str, range(200)))
    for lane in dealt:
        for first, second in itertools.pairwise(lane):
            assert first.began + first.seconds <= second.began
    assert len(lanes([Span("a", 0, 1), Span("b", 1, 1), Span("c", 2, 1)])) == 1
