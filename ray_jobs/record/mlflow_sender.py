"""Sends the records of an outbox to one MLflow run, each kind in its way.

Everything may be sent twice: after a kill nobody knows what arrived.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.record.mlflow_traces import send_trace
from ray_jobs.record.outbox import OUTBOX

# MLflow takes 1000 metrics and 100 parameters in one call.
METRICS_PER_CALL = 900
PARAMS_PER_CALL = 100

# Tag in which MLflow lists the tables of a run, and the length that a tag may have.
TABLES = "mlflow.loggedArtifacts"
LONGEST_TAG = 5000

# What an older or other server may not know: told once a record, and left out.
EXTRAS = ("table", "data", "model", "episode")


@dataclass
class Sender:
    """The connection to one MLflow run.

    Attributes:
        client: MLflow's client.
        uri: Its address.
        experiment: Number of the experiment.
        run_id: The MLflow run.
        name: Its name.
        outbox: Name of the outbox.
        say: Takes a line for the user.
    """

    client: Any
    uri: str
    experiment: str
    run_id: str
    name: str
    outbox: str
    say: Callable[[str], None]

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records together; if MLflow refuses them as malformed, one by one.

        A record that is refused alone is reported.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._metrics(records)
            for record in records:
                self._rest(record)
        except MlflowException as error:
            if error.get_http_status_code() != 400:
                raise
            if len(records) == 1:
                self._refused(error)
                return
            for record in records:
                self.send([record])

    def end(self, status: str) -> None:
        """Set the status of the run."""
        self.client.set_terminated(self.run_id, status=status)

    def _metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        points: list[Any] = []
        for record in records:
            points += _points(record)
        for start in range(0, len(points), METRICS_PER_CALL):
            part = points[start : start + METRICS_PER_CALL]
            self.client.log_batch(self.run_id, metrics=part)

    def _rest(self, record: Mapping[str, Any]) -> None:
        for key, value in record.get("tags", {}).items():
            self.client.set_tag(self.run_id, key_of(key), value)
        if "artifact" in record:
            self._upload(Path(record["artifact"]), record["to"])
        if any(kind in record for kind in EXTRAS):
            self._extra(record)

    def _extra(self, record: Mapping[str, Any]) -> None:
        """Send a record that may be left out, so that it never holds up the points behind it."""
        from mlflow.exceptions import MlflowException

        try:
            if "table" in record:
                self._table(Path(record["table"]), record["to"])
            elif "data" in record:
                self._data(record["data"])
            elif "model" in record:
                self._model(record["model"], record["step"])
            else:
                self._episode(record)
        except MlflowException as error:
            # Behind these a busy or absent server may take it later.
            if error.get_http_status_code() in (401, 403, 408, 429, 500, 502, 503, 504):
                raise
            self._refused(error)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            self._refused(error)

    def _refused(self, error: BaseException) -> None:
        reason = first_line(error)
        self.say(f"MLflow refuses a record, which stays in {OUTBOX} only: {reason}")

    def _upload(self, file: Path, folder: str) -> None:
        if file.is_dir():
            self.client.log_artifacts(self.run_id, str(file), folder or None)
        elif file.exists():
            self.client.log_artifact(self.run_id, str(file), folder or None)
        else:
            self._gone(file)

    def _gone(self, file: Path) -> None:
        self.say(f"{file} is gone: MLflow does not get it")

    def _table(self, file: Path, to: str) -> None:
        """Send a CSV file as a table, which MLflow shows and compares row by row."""
        if not file.exists():
            self._gone(file)
            return
        with file.open(newline="", encoding="utf-8") as opened:
            columns, *rows = csv.reader(opened)
        data = []
        for row in rows:
            data.append([_cell(text) for text in row])
        self.client.log_dict(self.run_id, {"columns": columns, "data": data}, to)
        known = self.client.get_run(self.run_id).data.tags.get(TABLES, "[]")
        self.client.set_tag(self.run_id, TABLES, _with_table(known, to))

    def _data(self, data: Mapping[str, Any]) -> None:
        """Send a data set as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=data["name"],
            digest=data["digest"],
            source_type="local",
            source=json.dumps({"uri": data["root"]}),
            profile=json.dumps(data["profile"]),
        )
        tags = [InputTag("mlflow.data.context", data["context"])]
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])

    def _model(self, folder: str, step: int) -> None:
        """Link a policy on disk as the model that the run made; a later one takes its place."""
        from mlflow.entities import LoggedModelOutput

        query = f"source_run_id = '{self.run_id}'"
        found = self.client.search_logged_models([self.experiment], query, max_results=1)
        if found:
            model_id = found[0].model_id
        else:
            made = self.client.create_logged_model(
                self.experiment,
                name=re.sub(r"[^\w-]", "_", self.name),
                source_run_id=self.run_id,
                model_type="policy",
            )
            model_id = made.model_id
            self.client.finalize_logged_model(model_id, "READY")
        self.client.set_logged_model_tags(model_id, {"path": folder, "step": str(step)})
        outputs = self.client.get_run(self.run_id).outputs
        linked = {each.model_id for each in outputs.model_outputs} if outputs else set()
        # A database takes the link of a run and a model once.
        if model_id not in linked:
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step)])

    def _episode(self, record: Mapping[str, Any]) -> None:
        from mlflow.tracing.client import TracingClient

        tracing = TracingClient(self.uri)
        line = record["episode"]
        send_trace(tracing, self.experiment, self.run_id, self.outbox, line, record["time_ms"])


def log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    """Log the parameters; those of a run that has others keep their first value."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    entries = []
    for name, value in params.items():
        if key_of(name) not in known:
            entries.append(Param(key_of(name), str(value)[:6000]))
    for start in range(0, len(entries), PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + PARAMS_PER_CALL])


def key_of(name: str) -> str:
    """Return a name in MLflow's alphabet: letters, digits, and _ - . / : space."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def first_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    lines = str(error).splitlines()
    first = lines[0][:200] if lines else ""
    return f"{type(error).__name__}: {first}"


def _points(record: Mapping[str, Any]) -> list[Any]:
    """Return the MLflow points of a record.

    NaN and infinity are strings in the outbox. MLflow cannot draw them, so they are left out.
    """
    from mlflow.entities import Metric

    points = []
    for key, value in record.get("metrics", {}).items():
        if isinstance(value, (int, float)):
            points.append(Metric(key_of(key), float(value), record["time_ms"], record["step"]))
    return points


def _cell(text: str) -> str | float:
    """Return a cell of a table, numbers as numbers; JSON has none that is not finite."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _with_table(known: str, path: str) -> str:
    """Return MLflow's list of tables with one more; the oldest are left out of a long list."""
    entries = json.loads(known)
    entry = {"path": path, "type": "table"}
    if entry not in entries:
        entries.append(entry)
    while len(json.dumps(entries)) > LONGEST_TAG:
        entries.pop(0)
    return json.dumps(entries)
