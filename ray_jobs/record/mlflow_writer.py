"""MLflow in the background: training hands over a step and continues, whatever the server does.

Every record first goes to `mlflow_outbox.jsonl` in the run folder, a file append in the caller's
thread. Another thread reads that file, sends it, and backs off while MLflow does not answer.
`mlflow.json` holds, for each tracking URI, the MLflow run and the number of bytes sent to it.
A later process continues there, and another URI gets the whole history. Points carry the time of
their step, so sending one twice changes nothing. The outbox names files; they are read on sending.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import append_lines, read_lines, repair_lines, write_json

OUTBOX = "mlflow_outbox.jsonl"
STATE = "mlflow.json"

# Back-off while MLflow does not answer.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0

# MLflow takes 1000 metrics and 100 parameters in one call.
METRICS_PER_CALL = 900
PARAMS_PER_CALL = 100

# Records sent before the position is written down.
CHUNK = 100


class MlflowWriter:
    """Sends the steps of one run to MLflow. With an empty `uri` every call does nothing.

    `say` gets one line when MLflow stops answering and one when everything is delivered again, in
    the background thread.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        name: str,
        folder: Path,
        params: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._outbox = folder / OUTBOX
        self._state_file = folder / STATE
        self._uri = uri
        self._experiment = experiment
        self._name = name
        self._params = dict(params or {})
        self._say = say
        self._client: Any = None
        self._run_id = ""
        self._closing = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        if uri:
            repair_lines(self._outbox)
            self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
            self._thread.start()

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over the points of one step. Values without a finite number stay in the outbox."""
        self._put({"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)})

    def has(self, step: int, name: str) -> bool:
        """Return True if the outbox holds a metric of a step; True without a URI."""
        if not self._uri:
            return True
        for record in read_lines(self._outbox):
            if record.get("step") == step and name in record["metrics"]:
                return True
        return False

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Hand over tags of the run."""
        self._put({"tags": {key: str(value) for key, value in tags.items()}})

    def artifact(self, file: Path, folder: str = "") -> None:
        """Hand over a file, or all files below a folder, for `folder` in the run's artifacts."""
        self._put({"artifact": str(file.resolve()), "to": folder})

    def close(self, timeout: float = 30.0, status: str = "FINISHED") -> bool:
        """Send the rest, for at most `timeout` seconds; return True if MLflow has everything.

        Otherwise nothing is lost: the next writer on this folder sends the outbox. `status` is
        MLflow's FINISHED, FAILED or KILLED.
        """
        if self._thread is None:
            return True
        self._put({"status": status})
        self._closing.set()
        self._news.set()
        self._thread.join(timeout)
        return self.delivered()

    def delivered(self) -> bool:
        """Return True if MLflow has every record of the outbox."""
        if not self._uri:
            return True
        size = self._outbox.stat().st_size if self._outbox.exists() else 0
        return self._state().get("sent", 0) >= size

    def _put(self, record: Mapping[str, Any]) -> None:
        if self._thread is not None:
            append_lines(self._outbox, record)
            self._news.set()

    def _work(self) -> None:
        """Run the thread: send records as they come, until closed and tried once more."""
        wait = FIRST_WAIT_S
        down = False
        while True:
            closing = self._closing.is_set()
            self._news.clear()
            try:
                self._send_all()
                if down:
                    self._say("MLflow answers again: everything is delivered")
                wait = FIRST_WAIT_S
                down = False
            except Exception as error:
                # The one boundary: no error of a tracking service may reach training.
                self._client = None
                if not down:
                    reason = _first_line(error)
                    self._say(f"MLflow does not answer, steps are kept in {OUTBOX} ({reason})")
                down = True

            if closing:
                # Records that came during this last attempt get one more.
                if not self._news.is_set():
                    return
            elif down:
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
            else:
                self._news.wait()

    def _send_all(self) -> None:
        """Send every whole line of the outbox after the remembered position."""
        self._connect()
        if not self._outbox.exists():
            return
        with self._outbox.open("rb") as outbox:
            outbox.seek(self._state().get("sent", 0))
            while True:
                lines = list(itertools.islice(outbox, CHUNK))
                whole = [line for line in lines if line.endswith(b"\n")]
                if not whole:
                    return
                self._send([json.loads(line) for line in whole])
                length = sum(len(line) for line in whole)
                self._remember(self._state()["sent"] + length)

    def _connect(self) -> None:
        """Open the client and this folder's run; make a new run if MLflow has none."""
        if self._client is not None:
            return
        client = _client(self._uri)
        self._run_id = self._state().get("run_id", "")
        if not self._run_id or not _is_alive(client, self._run_id):
            experiment = client.get_experiment_by_name(self._experiment)
            if experiment:
                number = experiment.experiment_id
            else:
                number = client.create_experiment(self._experiment, _artifacts_of(self._uri))
            self._run_id = client.create_run(number, run_name=self._name).info.run_id
            self._remember(0)
            _log_params(client, self._run_id, self._params)
        client.update_run(self._run_id, status="RUNNING")
        self._client = client

    def _send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records together; if MLflow refuses them as malformed, one by one.

        A record that is refused alone is reported.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._send_metrics(records)
            for record in records:
                self._send_rest(record)
        except MlflowException as error:
            if error.get_http_status_code() != 400:
                raise
            if len(records) == 1:
                reason = _first_line(error)
                self._say(f"MLflow refuses a record, which stays in {OUTBOX} only: {reason}")
                return
            for record in records:
                self._send([record])

    def _send_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        points: list[Any] = []
        for record in records:
            points += _metrics(record)
        for start in range(0, len(points), METRICS_PER_CALL):
            part = points[start : start + METRICS_PER_CALL]
            self._client.log_batch(self._run_id, metrics=part)

    def _send_rest(self, record: Mapping[str, Any]) -> None:
        for key, value in record.get("tags", {}).items():
            self._client.set_tag(self._run_id, _key(key), value)
        if "artifact" in record:
            self._upload(Path(record["artifact"]), record["to"])
        if "status" in record:
            self._client.set_terminated(self._run_id, status=record["status"])

    def _upload(self, file: Path, folder: str) -> None:
        if file.is_dir():
            self._client.log_artifacts(self._run_id, str(file), folder or None)
        elif file.exists():
            self._client.log_artifact(self._run_id, str(file), folder or None)
        else:
            self._say(f"{file} is gone: MLflow does not get it")

    def _states(self) -> dict[str, Any]:
        if not self._state_file.exists():
            return {}
        return json.loads(self._state_file.read_text())

    def _state(self) -> dict[str, Any]:
        return self._states().get(self._uri, {})

    def _remember(self, sent: int) -> None:
        state = {"run_id": self._run_id, "sent": sent}
        write_json(self._state_file, {**self._states(), self._uri: state})


def _client(uri: str) -> Any:
    """Return an MLflow client.

    The import and the first migration of a sqlite file take seconds, so only the thread does them.
    """
    # The writer retries by itself, and must notice `close` in between.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for noisy in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _artifacts_of(uri: str) -> str | None:
    """Return the place for files of a new experiment: beside a database on disk.

    MLflow's own default is the working directory of the job.
    """
    file = uri.partition("sqlite:///")[2]
    if not file:
        return None
    return (Path(file).resolve().parent / "mlartifacts").as_uri()


def _metrics(record: Mapping[str, Any]) -> list[Any]:
    """Return the MLflow points of a record.

    NaN and infinity are strings in the outbox. MLflow cannot draw them, so they are left out.
    """
    from mlflow.entities import Metric

    points = []
    for key, value in record.get("metrics", {}).items():
        if isinstance(value, (int, float)):
            points.append(Metric(_key(key), float(value), record["time_ms"], record["step"]))
    return points


def _is_alive(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            # The database was replaced: a new run gets the whole outbox.
            return False
        raise


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(_key(key), str(value)[:6000]) for key, value in params.items()]
    for start in range(0, len(entries), PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + PARAMS_PER_CALL])


def _key(name: str) -> str:
    """Return a name in MLflow's alphabet: letters, digits, and _ - . / : space."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    first = lines[0][:200] if lines else ""
    return f"{type(error).__name__}: {first}"
