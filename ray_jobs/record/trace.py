"""A Chrome trace: what all processes of a job did in one step, for Perfetto or chrome://tracing.

The format is the JSON of Chrome's trace events: a complete event ("X") for each span, and the names
of its processes and of their lanes ("M").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from core.pulse import Span

MICROSECONDS = 1e6

Event = dict[str, Any]


def chrome_trace(spans_by_process: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """Return the trace of some processes, each with lanes in which no two spans overlap.

    Times are those since the earliest span.
    """
    start = min((span.began for spans in spans_by_process.values() for span in spans), default=0.0)
    events: list[Event] = []
    for number, (name, spans) in enumerate(spans_by_process.items(), start=1):
        events.append(_named("process_name", number, 0, {"name": name}))
        events.append(_named("process_sort_index", number, 0, {"sort_index": number}))
        for lane, in_lane in enumerate(lanes(spans), start=1):
            events.append(_named("thread_name", number, lane, {"name": f"lane {lane}"}))
            for span in in_lane:
                events.append(_complete(span, number, lane, start))
    return {"displayTimeUnit": "ms", "traceEvents": events}


def lanes(spans: Sequence[Span]) -> list[list[Span]]:
    """Deal spans into as few lanes as needed for no two in one lane to overlap."""
    found: list[list[Span]] = []
    for span in sorted(spans, key=attrgetter("began")):
        for lane in found:
            last = lane[-1]
            if last.began + last.seconds <= span.began:
                lane.append(span)
                break
        else:
            found.append([span])
    return found


def _complete(span: Span, process: int, lane: int, start: float) -> Event:
    return {
        "ph": "X",
        "name": span.name,
        "cat": "rayvos",
        "pid": process,
        "tid": lane,
        "ts": (span.began - start) * MICROSECONDS,
        "dur": span.seconds * MICROSECONDS,
    }


def _named(what: str, process: int, lane: int, arguments: Event) -> Event:
    return {
        "ph": "M",
        "name": what,
        "pid": process,
        "tid": lane,
        "args": arguments,
    }
