"""MLflow in the background: training hands over a step and goes on; a server that is down costs nothing.

Every record goes first to `mlflow_outbox.jsonl` in the run folder, in the caller's thread (a file append). A thread of
its own reads that file and sends it, with back-off while MLflow does not answer. `mlflow.json` remembers, for each
tracking URI, the MLflow run and how many bytes of the outbox it has: a later process goes on there, and another
URI gets the whole history. Points carry the time of their step, so sending one twice changes nothing. Files are
named in the outbox and read when they are sent.
This file does not know what is measured.
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

from core.files import append_lines, repair_lines, write_json

OUTBOX = "mlflow_outbox.jsonl"
STATE = "mlflow.json"
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
BATCH = 900  # MLflow takes 1000 metrics and 100 parameters in one call
CHUNK = 100  # records sent before the position is written down


class MlflowWriter:
    """Steps of one run, on their way to MLflow. An empty `uri` switches it off: calls then do nothing.

    `say` gets one line when MLflow stops answering and one when everything is delivered again; it is called from
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
        """Points at one step; returns at once. Values that are no finite numbers stay in the outbox only."""
        self._put({"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)})

    def tags(self, tags: Mapping[str, Any]) -> None:
        self._put({"tags": {k: str(v) for k, v in tags.items()}})

    def artifact(self, file: Path, folder: str = "") -> None:
        """A file, or all files below a folder, into the run's artifacts under `folder`; it is read when it is sent."""
        self._put({"artifact": str(file.resolve()), "to": folder})

    def close(self, timeout: float = 30.0, status: str = "FINISHED") -> bool:
        """Send what is left, for at most `timeout` seconds; True if MLflow has everything.

        If not, nothing is lost: the outbox stays, and the next writer on this folder sends it. `status` is MLflow's
        FINISHED, FAILED or KILLED.
        """
        if self._thread is None:
            return True
        self._put({"status": status})
        self._closing.set()
        self._news.set()
        self._thread.join(timeout)
        return self.delivered()

    def delivered(self) -> bool:
        """True if MLflow has every record of the outbox."""
        size = self._outbox.stat().st_size if self._outbox.exists() else 0
        return not self._uri or self._state().get("sent", 0) >= size

    def _put(self, record: Mapping[str, Any]) -> None:
        if self._thread is not None:
            append_lines(self._outbox, record)
            self._news.set()

    def _work(self) -> None:
        """The thread: waits for records and sends them, for ever, until closed and (once more) tried."""
        wait = FIRST_WAIT_S
        down = False
        while True:
            closing = self._closing.is_set()
            self._news.clear()
            try:
                self._send_all()
                wait = FIRST_WAIT_S
                if down:
                    self._say("MLflow answers again: everything is delivered")
                down = False
            except (
                Exception
            ) as error:  # the one boundary: no error of a tracking service may reach training
                self._client = None
                if not down:
                    self._say(
                        f"MLflow does not answer, steps are kept in {OUTBOX} ({_first_line(error)})"
                    )
                down = True
            if closing and not self._news.is_set():
                return
            if down and not closing:
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
            elif not closing:
                self._news.wait()

    def _send_all(self) -> None:
        self._connect()
        if not self._outbox.exists():
            return
        with self._outbox.open("rb") as lines:
            lines.seek(self._state().get("sent", 0))
            while whole := [
                line for line in itertools.islice(lines, CHUNK) if line.endswith(b"\n")
            ]:
                self._send([json.loads(line) for line in whole])
                self._remember(self._state()["sent"] + sum(map(len, whole)))

    def _connect(self) -> None:
        """The client, and the run: the one of this folder and URI if MLflow still has it, else a new one."""
        if self._client is not None:
            return
        client = _client(self._uri)
        self._run_id = self._state().get("run_id", "")
        if not self._run_id or not _is_alive(client, self._run_id):
            experiment = client.get_experiment_by_name(self._experiment)
            where = _artifacts_of(self._uri)
            number = (
                experiment.experiment_id
                if experiment
                else client.create_experiment(self._experiment, where)
            )
            self._run_id = client.create_run(number, run_name=self._name).info.run_id
            self._remember(0)
            _log_params(client, self._run_id, self._params)
        client.update_run(self._run_id, status="RUNNING")
        self._client = client

    def _send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Records in one go; if MLflow refuses them as malformed, one by one, and the refused one is named."""
        from mlflow.exceptions import MlflowException

        metrics = [m for record in records for m in _metrics(record)]
        try:
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + BATCH])
            for record in records:
                for key, value in record.get("tags", {}).items():
                    self._client.set_tag(self._run_id, _key(key), value)
                if "artifact" in record:
                    self._upload(Path(record["artifact"]), record["to"])
                if "status" in record:
                    self._client.set_terminated(self._run_id, status=record["status"])
        except MlflowException as error:
            if error.get_http_status_code() != 400:
                raise
            for record in records if len(records) > 1 else ():
                self._send([record])
            if len(records) == 1:
                self._say(
                    f"MLflow refuses a record, which stays in {OUTBOX} only: {_first_line(error)}"
                )

    def _upload(self, file: Path, folder: str) -> None:
        if file.is_dir():
            self._client.log_artifacts(self._run_id, str(file), folder or None)
        elif file.exists():
            self._client.log_artifact(self._run_id, str(file), folder or None)
        else:
            self._say(f"{file} is gone: MLflow does not get it")

    def _state(self) -> dict[str, Any]:
        states = json.loads(self._state_file.read_text()) if self._state_file.exists() else {}
        return states.get(self._uri, {})

    def _remember(self, sent: int) -> None:
        states = json.loads(self._state_file.read_text()) if self._state_file.exists() else {}
        write_json(self._state_file, {**states, self._uri: {"run_id": self._run_id, "sent": sent}})


def _client(uri: str) -> Any:
    """An MLflow client; the import and the first sqlite migration take seconds, hence only in the thread."""
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"
    )  # we retry ourselves, and must notice `close`
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
    """Where a new experiment keeps its files: beside a database on disk, not in whatever folder the job runs in."""
    file = uri.partition("sqlite:///")[2]
    return (Path(file).resolve().parent / "mlartifacts").as_uri() if file else None


def _metrics(record: Mapping[str, Any]) -> list[Any]:
    """MLflow points of a record; nan and infinity (strings in the outbox) are left out: MLflow cannot draw them."""
    from mlflow.entities import Metric

    values = {k: v for k, v in record.get("metrics", {}).items() if isinstance(v, (int, float))}
    return [Metric(_key(k), float(v), record["time_ms"], record["step"]) for k, v in values.items()]


def _is_alive(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            return False  # the database was replaced: a new run gets the whole outbox
        raise


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(_key(k), str(v)[:6000]) for k, v in params.items()]
    for start in range(0, len(entries), 100):
        client.log_batch(run_id, params=entries[start : start + 100])


def _key(name: str) -> str:
    """MLflow's alphabet for names: letters, digits, and _ - . / : space."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
