"""An episode as a trace of MLflow: a span for each turn, and its reward as assessments.

The engine does not tell when a turn began. A span is therefore as long as its tokens, at 1 ms each:
long turns look long, and the lengths of two traces can be compared.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

# Characters of a text; the whole one is in episodes.jsonl.
LONGEST = 20_000
MS_A_TOKEN = 1

# A line of episodes.jsonl.
Line = Mapping[str, Any]


def send_trace(
    client: Any, experiment: str, run_id: str, outbox: str, line: Line, time_ms: int
) -> None:
    """Send one episode, unless MLflow has it.

    Args:
        client: MLflow's TracingClient.
        experiment: Number of the experiment.
        run_id: The MLflow run that played it.
        outbox: Name of its outbox.
        line: A line of episodes.jsonl.
        time_ms: End of the episode's step.
    """
    from mlflow.entities import TraceData

    line = storable(line)
    number = trace_number(outbox, line)
    if _is_there(client, f"tr-{number}", run_id):
        return
    spans = _spans(number, line, time_ms)
    info = _info(number, line, time_ms, experiment, run_id)
    try:
        client.log_spans(experiment, spans)
    except NotImplementedError:
        # A store of files keeps spans as an artifact.
        placed = client.start_trace(info)
        client._upload_trace_data(placed, TraceData(spans))
        return
    client.start_trace(info)


def trace_number(outbox: str, line: Line) -> str:
    """Return 32 digits of hexadecimal, the same for an episode whenever it is sent."""
    words = [outbox, line["step"], line["sample"], line["episode"]]
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=16).hexdigest()


def storable(value: Any) -> Any:
    """Return JSON without what databases refuse: halves of surrogate pairs and the zero byte."""
    if isinstance(value, str):
        return value.replace("\0", "�").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {storable(key): storable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(each) for each in value]
    return value


def _is_there(client: Any, trace_id: str, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        metadata = client.get_trace_info(trace_id).trace_metadata
    except MlflowException:
        return False
    # Spans alone make a trace as well, which has no run yet.
    return bool(metadata.get("mlflow.sourceRun") == run_id)


def _info(number: str, line: Line, time_ms: int, experiment: str, run: str) -> Any:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    step = f"step {line['step']}"
    duration = MS_A_TOKEN * _tokens(line)
    answer = line["turns"][-1]["text"] if line["turns"] else ""
    return TraceInfo(
        trace_id=f"tr-{number}",
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=time_ms - duration,
        execution_duration=duration,
        state=TraceState.ERROR if line["end"] == "failed" else TraceState.OK,
        request_preview=line.get("query", line["sample"])[:LONGEST],
        response_preview=answer[:LONGEST],
        # The episodes of one prompt stand together as a session.
        trace_metadata={
            "mlflow.sourceRun": run,
            "mlflow.trace.session": f"{step} {line['sample']}"[:200],
        },
        tags={
            "mlflow.traceName": step,
            "step": str(line["step"]),
            "sample": line["sample"],
            "end": line["end"],
        },
        assessments=_assessments(line, f"tr-{number}"),
    )


def _assessments(line: Line, trace_id: str) -> list[Any]:
    """Return the reward, its parts and the advantage."""
    from mlflow.entities import AssessmentSource, Feedback

    values = {"reward": line["reward"], "advantage": line["advantage"]}
    for name, value in (line["parts"] or {}).items():
        values[f"reward/{name}"] = value
    source = AssessmentSource(source_type="CODE", source_id="rayvos")
    found = []
    for name, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            feedback = Feedback(name=name, value=float(value), source=source, trace_id=trace_id)
            found.append(feedback)
    return found


def _spans(number: str, line: Line, time_ms: int) -> list[Any]:
    """Return the span of the episode, then one for each turn."""
    began_ms = time_ms - MS_A_TOKEN * _tokens(line)
    asked = {"query": line.get("query", ""), "sample": line["sample"]}
    told = {key: line[key] for key in ("end", "facts", "reward")}
    root = _span(number, 0, "episode", began_ms, time_ms, asked, told)
    spans = [root]
    for index, turn in enumerate(line["turns"], start=1):
        ended_ms = began_ms + MS_A_TOKEN * turn["tokens"]
        prompt = turn.get("prompt", "")[:LONGEST]
        span = _span(
            number, index, f"turn {index}", began_ms, ended_ms, prompt, turn["text"][:LONGEST], turn
        )
        spans.append(span)
        began_ms = ended_ms
    return spans


def _span(
    number: str,
    index: int,
    name: str,
    began_ms: int,
    ended_ms: int,
    asked: Any,
    told: Any,
    turn: Line | None = None,
) -> Any:
    from mlflow.entities import Span

    values = {
        "mlflow.traceRequestId": f"tr-{number}",
        "mlflow.spanType": "LLM" if turn else "AGENT",
        "mlflow.spanInputs": asked,
        "mlflow.spanOutputs": told,
    }
    for key in ("frames", "tokens", "complete", "version"):
        if turn is not None:
            values[key] = turn[key]
    attributes = {key: json.dumps(value) for key, value in values.items()}
    return Span.from_dict(
        {
            "name": name,
            "trace_id": _base64(bytes.fromhex(number)),
            "span_id": _base64(_span_number(index)),
            "parent_span_id": _base64(_span_number(0)) if index else "",
            "start_time_unix_nano": began_ms * 1_000_000,
            "end_time_unix_nano": ended_ms * 1_000_000,
            "status": {"code": "STATUS_CODE_OK"},
            "attributes": attributes,
        }
    )


def _span_number(index: int) -> bytes:
    # The number 0 means no span.
    return (index + 1).to_bytes(8, "big")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _tokens(line: Line) -> int:
    return sum(turn["tokens"] for turn in line["turns"])
