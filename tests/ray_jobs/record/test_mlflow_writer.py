"""The MLflow writer with real MLflow: sqlite, a dead port, a server's outage. Nothing is lost."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.load import REPOSITORY
from ray_jobs.record import mlflow_writer
from ray_jobs.record.mlflow_writer import MlflowWriter


def _run_id(uri: str, folder: Path) -> str:
    return json.loads((folder / "mlflow.json").read_text())[uri]["run_id"]


def _points(uri: str, folder: Path, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(uri).get_metric_history(_run_id(uri, folder), key)
    return [(point.step, point.value) for point in history]


def _run(uri: str, folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri).get_run(_run_id(uri, folder))


def _wait(until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert until()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_sqlite_gets_metrics_params_tags_and_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, {f"key.{i}": i for i in range(150)})
    for step in range(3):
        metrics = {"reward": step / 2, "J&F": 40.0, "gap": float("nan"), "seconds/play": 1.5}
        writer.metrics(step, metrics)
    writer.tags({"best": 2})
    assert writer.close(240)
    assert _points(uri, tmp_path, "reward") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert _points(uri, tmp_path, "seconds/play") == [(0, 1.5), (1, 1.5), (2, 1.5)]
    run = _run(uri, tmp_path)
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.tags["best"] == "2"
    assert run.data.params["key.149"] == "149"
    assert len(run.data.params) == 150
    assert run.data.metrics["J_F"] == 40.0
    assert "gap" not in run.data.metrics
    # No migration log in a training terminal.
    assert capfd.readouterr() == ("", "")


def test_files_arrive_beside_the_database(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    said: list[str] = []
    (tmp_path / "overlays").mkdir()
    for name in ("summary.json", "overlays/a.mp4", "overlays/b.mp4"):
        (tmp_path / name).write_text(name)
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, say=said.append)
    writer.artifact(tmp_path / "summary.json", "evaluation")
    writer.artifact(tmp_path / "overlays", "evaluation/overlays")
    writer.artifact(tmp_path / "never_written.csv")
    writer.metrics(1, {"reward": 1.0})
    assert writer.close(240)
    run_id = _run_id(uri, tmp_path)
    client = MlflowClient(uri)
    assert [f.path for f in client.list_artifacts(run_id, "evaluation/overlays")] == [
        "evaluation/overlays/a.mp4",
        "evaluation/overlays/b.mp4",
    ]
    copy = client.download_artifacts(run_id, "evaluation/summary.json", str(tmp_path / "overlays"))
    assert Path(copy).read_text() == "summary.json"
    assert client.get_run(run_id).info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert _points(uri, tmp_path, "reward") == [(1, 1.0)]
    assert len(said) == 1
    assert "never_written.csv is gone" in said[0]


def test_a_step_never_waits_for_mlflow(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{_free_port()}"
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, say=lambda text: None)
    start = time.monotonic()
    for step in range(100):
        writer.metrics(step, {"reward": 1.0})
    assert time.monotonic() - start < 2.0
    start = time.monotonic()
    assert not writer.close(1.0)
    assert time.monotonic() - start < 3.0


KILLED = """
import os, pathlib, signal, sys
from ray_jobs.record.mlflow_writer import MlflowWriter
writer = MlflowWriter(sys.argv[2], "tests", "mine", pathlib.Path(sys.argv[1]))
writer.metrics(1, {"reward": 1.0})
while not writer.delivered():
    pass
writer.metrics(2, {"reward": 2.0})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_later_process_goes_on_in_the_same_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), uri], cwd=REPOSITORY)
    # A kill in the middle of a line leaves its beginning.
    with (tmp_path / "mlflow_outbox.jsonl").open("a") as out:
        out.write('{"step": 3, "time')
    run_id = _run_id(uri, tmp_path)
    writer = MlflowWriter(uri, "tests", "mine", tmp_path)
    writer.metrics(3, {"reward": 3.0})
    assert writer.close(240)
    assert _points(uri, tmp_path, "reward") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert _run_id(uri, tmp_path) == run_id


def test_sending_twice_changes_nothing(tmp_path: Path) -> None:
    """After a kill between MLflow's answer and the note of it, records are sent again."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    writer = MlflowWriter(uri, "tests", "mine", tmp_path)
    writer.metrics(1, {"reward": 1.0})
    assert writer.close(240)
    states = json.loads((tmp_path / "mlflow.json").read_text())
    states[uri]["sent"] = 0
    (tmp_path / "mlflow.json").write_text(json.dumps(states))
    assert MlflowWriter(uri, "tests", "mine", tmp_path).close(240)
    assert _points(uri, tmp_path, "reward") == [(1, 1.0)]


def test_a_refused_record_does_not_hold_up_the_others(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    said: list[str] = []
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, say=said.append)
    writer.metrics(1, {"x" * 2000: 1.0})
    writer.metrics(2, {"reward": 2.0})
    assert writer.close(240)
    assert _points(uri, tmp_path, "reward") == [(2, 2.0)]
    assert len(said) == 1
    assert "refuses a record" in said[0]


def test_parameters_arrive_after_a_connection_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends just between the new run and its parameters."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    log_params = mlflow_writer.log_params
    failed: list[str] = []

    def fail_once(client: Any, run_id: str, params: Any) -> None:
        if not failed:
            failed.append(run_id)
            raise ConnectionError("gone")
        log_params(client, run_id, params)

    monkeypatch.setattr(mlflow_writer, "log_params", fail_once)
    said: list[str] = []
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, {"lr": 1e-4}, say=said.append)
    writer.metrics(1, {"reward": 1.0})
    _wait(lambda: len(said) == 2, 240)
    assert writer.close(240)
    run = _run(uri, tmp_path)
    assert run.data.params == {"lr": "0.0001"}
    assert [run.info.run_id] == failed
    assert _points(uri, tmp_path, "reward") == [(1, 1.0)]


def test_broken_files_cost_no_record_and_no_second_run(tmp_path: Path) -> None:
    """A cut mlflow.json, garbage in the outbox, and a step that a resumed run plays again."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, {"lr": 1})
    writer.metrics(1, {"reward": 1.0})
    writer.metrics(2, {"reward": 2.0})
    assert writer.close(240, status="FAILED")
    run_id = _run_id(uri, tmp_path)
    assert _run(uri, tmp_path).info.status == "FAILED"

    state = tmp_path / "mlflow.json"
    state.write_text(state.read_text()[:25])
    with (tmp_path / "mlflow_outbox.jsonl").open("ab") as out:
        out.write(b'\xff\x00 garbage\n[1]\n{"metrics": 3}\n{"status": 3}\n')
    said: list[str] = []
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, {"lr": 2}, say=said.append)
    _wait(writer.delivered, 240)
    assert _run(uri, tmp_path).info.status == "RUNNING"
    writer.metrics(2, {"reward": 2.0, "seconds": 9.0})
    writer.metrics(3, {"reward": 3.0})
    assert writer.close(240)
    assert _run_id(uri, tmp_path) == run_id
    assert _points(uri, tmp_path, "reward") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    run = _run(uri, tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "1"}
    assert len(said) == 4
    assert all("mlflow_outbox.jsonl is no record" in text for text in said)


# Imports take longer than all else, so the processes share them.
FOUR = """
import os, pathlib, sys
import mlflow.store.tracking.sqlalchemy_store
from ray_jobs.record.mlflow_writer import MlflowWriter

children = []
for number in range(4):
    child = os.fork()
    if not child:
        folder = pathlib.Path(sys.argv[1]) / str(number)
        folder.mkdir()
        params = {"learner.lr": number}
        writer = MlflowWriter(sys.argv[2], "tests", f"run {number}", folder, params)
        for step in range(50):
            writer.metrics(step, {"reward": float(number)})
        is_whole = writer.close(240)
        sys.stdout.flush()
        os._exit(0 if is_whole else 1)
    children.append(child)
ends = [os.waitpid(child, 0)[1] for child in children]
sys.exit(f"ends: {ends}" if any(ends) else 0)
"""


def test_four_processes_start_on_one_fresh_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, "-c", FOUR, str(tmp_path), uri]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    for number in range(4):
        points = _points(uri, tmp_path / str(number), "reward")
        assert points == [(step, number) for step in range(50)]
        assert _run(uri, tmp_path / str(number)).data.params == {"learner.lr": str(number)}
    assert len({_run_id(uri, tmp_path / str(number)) for number in range(4)}) == 4


@pytest.mark.parametrize("loss", ["another database", "run unknown", "run deleted"])
def test_mlflow_that_lost_the_run_gets_the_whole_history(tmp_path: Path, loss: str) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/one.db"
    writer = MlflowWriter(uri, "tests", "mine", tmp_path)
    writer.metrics(1, {"reward": 1.0})
    assert writer.close(240)
    states = json.loads((tmp_path / "mlflow.json").read_text())
    if loss == "another database":
        uri = f"sqlite:///{tmp_path}/two.db"
    elif loss == "run unknown":
        states[uri]["run_id"] = "0" * 32
        (tmp_path / "mlflow.json").write_text(json.dumps(states))
    else:
        MlflowClient(uri).delete_run(states[uri]["run_id"])
    writer = MlflowWriter(uri, "tests", "mine", tmp_path)
    writer.metrics(2, {"reward": 2.0})
    assert writer.close(240)
    assert _points(uri, tmp_path, "reward") == [(1, 1.0), (2, 2.0)]


def test_without_a_uri_nothing_happens(tmp_path: Path) -> None:
    writer = MlflowWriter("", "tests", "mine", tmp_path)
    writer.metrics(1, {"reward": 1.0})
    assert writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_outage_of_a_real_server(tmp_path: Path) -> None:
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    database = f"sqlite:///{tmp_path}/server.db"
    said: list[str] = []
    writer = MlflowWriter(uri, "tests", "mine", tmp_path, say=said.append)
    writer.metrics(1, {"reward": 1.0})
    _wait(lambda: len(said) == 1, 240)
    assert "does not answer" in said[0]
    assert not writer.delivered()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", database]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        writer.metrics(2, {"reward": 2.0})
        _wait(writer.delivered, 240)
        assert _points(uri, tmp_path, "reward") == [(1, 1.0), (2, 2.0)]
        assert "answers again" in said[-1]
    finally:
        server.terminate()
        server.wait(120)
    writer.metrics(3, {"reward": 3.0})
    assert not writer.close(3)
    # Another address gets the history from the start.
    again = MlflowWriter(database, "tests", "mine", tmp_path)
    assert again.close(240)
    assert _points(database, tmp_path, "reward") == [(1, 1.0), (2, 2.0), (3, 3.0)]
