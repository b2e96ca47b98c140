"""MLflow in the background: training hands over a step and continues, whatever the server does.

Every record first goes to `mlflow_outbox.jsonl` in the run folder, a file append in the caller's
thread. Another thread reads that file, sends it, and backs off while MLflow does not answer.
`mlflow.json` holds, for each tracking URI, the MLflow run and the number of bytes sent to it.
A later process continues there, and another URI gets the whole history. Points carry the time of
their step, so sending one twice changes nothing, and a step that is played again adds no second
point. The outbox names files; they are read on sending. Its own name is a tag of the MLflow run,
by which a run is found again if `mlflow.json` was lost, and by which its children find it.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.files import append_lines, read_lines, repair_lines, write_json
from ray_jobs.record.dead_runs import TAG, end_dead_runs
from ray_jobs.record.mlflow_sender import Sender, first_line, log_params
from ray_jobs.record.outbox import OUTBOX, record_of

STATE = "mlflow.json"

# Back-off while MLflow does not answer.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0

# Records sent before the position is written down.
CHUNK = 100

# MLflow's tag of a child run.
PARENT = "mlflow.parentRunId"


class MlflowWriter:
    """Sends the steps of one run to MLflow. With an empty `uri` every call does nothing.

    `say` gets one line when MLflow stops answering and one when everything is delivered again, in
    the background thread. Of the tags, PARENT is the outbox of the parent run.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        name: str,
        folder: Path,
        params: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._outbox = folder / OUTBOX
        self._state_file = folder / STATE
        self._uri = uri
        self._experiment = experiment
        self._name = name
        self._params = dict(params or {})
        self._say = say
        self._tags = dict(tags or {})
        self._sender: Sender | None = None
        self._run_id = ""
        self._closing = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._outbox_name = ""
        # Bytes of the outbox that earlier processes wrote.
        self._began = 0
        # (step, metric) of every point in the outbox.
        self._points: set[tuple[int, str]] = set()
        if uri:
            repair_lines(self._outbox)
            self._read_outbox()
            self._began = self._outbox.stat().st_size
            self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
            self._thread.start()

    @property
    def is_on(self) -> bool:
        """Whether there is a URI."""
        return bool(self._uri)

    @property
    def outbox_name(self) -> str:
        """The name by which a child finds this run; "" without a URI."""
        return self._outbox_name

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over the points of one step. Values without a finite number stay in the outbox.

        A metric that the outbox has for this step is left out: a resumed run plays steps again.
        """
        fresh = {}
        for name, value in metrics.items():
            if (step, name) not in self._points:
                fresh[name] = value
        if fresh:
            self._points |= {(step, name) for name in fresh}
            self._put({"step": step, "time_ms": _now_ms(), "metrics": fresh})

    def has(self, step: int, name: str) -> bool:
        """Return True if the outbox holds a metric of a step; True without a URI."""
        if not self._uri:
            return True
        for record in read_lines(self._outbox):
            if record.get("step") == step and name in record.get("metrics", {}):
                return True
        return False

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Hand over tags of the run."""
        self._put({"tags": {key: str(value) for key, value in tags.items()}})

    def artifact(self, file: Path, folder: str = "") -> None:
        """Hand over a file, or all files below a folder, for `folder` in the run's artifacts."""
        self._put({"artifact": str(file.resolve()), "to": folder})

    def table(self, file: Path, to: str) -> None:
        """Hand over a CSV file as a table; `to` is a .json in the run's artifacts."""
        self._put({"table": str(file.resolve()), "to": to})

    def data(self, described: Mapping[str, Any]) -> None:
        """Hand over a data set: name, digest, root, context and profile."""
        self._put({"data": dict(described)})

    def model(self, folder: Path, step: int) -> None:
        """Hand over where the policy of a step is; MLflow gets its path, not its weights."""
        self._put({"model": str(folder.absolute()), "step": step})

    def episode(self, line: Mapping[str, Any]) -> None:
        """Hand over a line of episodes.jsonl, which becomes a trace."""
        self._put({"episode": dict(line), "time_ms": _now_ms()})

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

    def _read_outbox(self) -> None:
        """Note the outbox's name and points; a new outbox gets a name."""
        if self._outbox.exists():
            with self._outbox.open("rb") as outbox:
                for line in outbox:
                    record = record_of(line) or {}
                    self._outbox_name = record.get("outbox", self._outbox_name)
                    names = record.get("metrics", {})
                    self._points |= {(record["step"], name) for name in names}
        if not self._outbox_name:
            self._outbox_name = uuid.uuid4().hex
            append_lines(self._outbox, {"outbox": self._outbox_name})

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
                self._sender = None
                if not down:
                    reason = first_line(error)
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
        sender = self._connect()
        if not self._outbox.exists():
            return
        with self._outbox.open("rb") as outbox:
            outbox.seek(self._state().get("sent", 0))
            while True:
                lines = list(itertools.islice(outbox, CHUNK))
                whole = [line for line in lines if line.endswith(b"\n")]
                if not whole:
                    return
                records = self._records(whole)
                sender.send(records)
                # The status of an earlier process says nothing while this one works.
                is_own = outbox.tell() > self._began
                if is_own and records and "status" in records[-1]:
                    sender.end(records[-1]["status"])
                length = sum(len(line) for line in whole)
                self._remember(self._state().get("sent", 0) + length)

    def _records(self, lines: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return the records of some lines; a line that is none is reported and left out."""
        records = []
        for line in lines:
            record = record_of(line)
            if record is None:
                self._say(f"a line of {self._outbox} is no record, MLflow does not get it")
            else:
                records.append(record)
        return records

    def _connect(self) -> Sender:
        """Open the client and this folder's run; make a new run if MLflow has none."""
        if self._sender is not None:
            return self._sender
        # Several runs may start on one database, and each would make its tables.
        with _turn(self._uri):
            client = _client(self._uri)
            self._run_id = self._state().get("run_id", "")
            if not self._run_id or not _is_alive(client, self._run_id):
                self._run_id = self._find_run(client, self._outbox_name) or self._make_run(client)
                self._remember(0)
        if not self._state().get("params"):
            log_params(client, self._run_id, self._params)
            self._remember(self._state()["sent"], params=True)
        client.update_run(self._run_id, status="RUNNING")
        experiment = client.get_run(self._run_id).info.experiment_id
        self._say_who(client)
        end_dead_runs(client, experiment, self._run_id)
        self._sender = Sender(
            client, self._uri, experiment, self._run_id, self._name, self._outbox_name, self._say
        )
        return self._sender

    def _say_who(self, client: Any) -> None:
        """Set the tags; the parent is found by its outbox."""
        tags = dict(self._tags)
        if tags.get(PARENT):
            tags[PARENT] = self._find_run(client, tags[PARENT])
        for key, value in tags.items():
            if value:
                client.set_tag(self._run_id, key, value)

    def _find_run(self, client: Any, outbox: str) -> str:
        """Return the MLflow run of an outbox, or ""."""
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return ""
        query = f"tags.{TAG} = '{outbox}'"
        found = client.search_runs([experiment.experiment_id], query, max_results=1)
        return found[0].info.run_id if found else ""

    def _make_run(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment:
            number = experiment.experiment_id
        else:
            number = client.create_experiment(self._experiment, _artifacts_of(self._uri))
        tags = {TAG: self._outbox_name}
        run_id: str = client.create_run(number, run_name=self._name, tags=tags).info.run_id
        return run_id

    def _states(self) -> dict[str, Any]:
        """Return the state of every URI; none from a broken file, since all can be sent again."""
        try:
            states = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            return {}
        return states if isinstance(states, dict) else {}

    def _state(self) -> dict[str, Any]:
        state = self._states().get(self._uri)
        return state if isinstance(state, dict) else {}

    def _remember(self, sent: int, params: bool | None = None) -> None:
        """Write down what MLflow has: a run, bytes of the outbox, and the parameters or not."""
        before = self._state()
        if params is None:
            params = before.get("run_id") == self._run_id and before.get("params", False)
        state = {"run_id": self._run_id, "sent": sent, "params": params}
        write_json(self._state_file, {**self._states(), self._uri: state})


def _now_ms() -> int:
    return int(time.time() * 1000)


@contextmanager
def _turn(uri: str) -> Iterator[None]:
    """Let one process at a time into the block, by a lock beside a database on disk."""
    file = _database(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _database(uri: str) -> Path | None:
    """Return the file of a database on disk, or None."""
    file = uri.partition("sqlite:///")[2]
    return Path(file).resolve() if file else None


def _client(uri: str) -> Any:
    """Return an MLflow client.

    The import and the first migration of a sqlite file take seconds, so only the thread does them.
    """
    # The writer retries by itself, and must notice `close` in between.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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
    file = _database(uri)
    if file is None:
        return None
    return (file.parent / "mlartifacts").as_uri()


def _is_alive(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            # The database was replaced: a new run gets the whole outbox.
            return False
        raise
