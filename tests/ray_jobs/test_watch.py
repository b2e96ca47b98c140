"""The live page's data and server, from run folders in every state that a run leaves."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.watch import Limits, Watch
from configs.load import load, to_yaml
from core.files import append_lines
from ray_jobs.driver.live import memory_metrics, told_live
from ray_jobs.driver.live_server import FILES, live_page, live_server
from ray_jobs.record.live_data import POINTS, LiveData, thinned
from ray_jobs.record.owner import owned
from ray_jobs.record.progress import Progress
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.train import train
from ray_jobs.watch import folder_of


@pytest.fixture
def record(tmp_path: Path) -> RunFolder:
    """A run of two steps, one of which lost an actor."""
    settings = ["revseg_tiny", "train.steps=10"]
    record = RunFolder.open(tmp_path / "runs/live", to_yaml(load(settings)))
    for step in (1, 2):
        metrics = {"reward": 0.5 * step, "reward/format": 1.0, "kl": float("nan"), "odd": 3.0}
        record.write_step(step, metrics | {f"deaths/{step}": 1.0}, {"play": 2.0, "learn": 1.0})
    return record


def curve_of(live: LiveData, title: str) -> dict[str, list[Any]]:
    """The values of a chart's curves by their names."""
    curves = live.curves()
    [chart] = [chart for chart in curves["charts"] + curves["others"] if chart["title"] == title]
    return {curve["name"]: curve["values"] for curve in chart["curves"]}


@contextmanager
def served(run: Path) -> Iterator[str]:
    with live_server(run, 0, "") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_every_figure_has_a_chart(record: RunFolder) -> None:
    live = LiveData(record.path)
    assert curve_of(live, "Reward") == {"reward": [0.5, 1.0]}
    assert curve_of(live, "Parts of the reward") == {"reward/format": [1.0, 1.0]}
    assert curve_of(live, "KL divergence from the reference") == {"kl": [None, None]}
    assert curve_of(live, "Lost processes so far") == {
        "deaths/1": [1.0, 1.0],
        "deaths/2": [0.0, 1.0],
    }
    assert curve_of(live, "odd") == {"odd": [3.0, 3.0]}
    seconds = curve_of(live, "Seconds of a step, as the driver waits for its stages")
    assert seconds["seconds/play"] == [2.0, 2.0]


def test_the_state_of_a_run(record: RunFolder) -> None:
    live = LiveData(record.path)
    now = live.now()
    assert (now["system"], now["step"], now["steps"], now["left_s"]) == ("revseg", 2, 10, 24.0)
    assert now["state"]["word"] == "ended"
    with owned(record.path):
        assert live.now()["state"]["word"] == "runs"
    record.write_summary({})
    assert live.now()["state"]["word"] == "finished"


def test_what_the_processes_do_is_told_while_a_job_runs(record: RunFolder) -> None:
    live = LiveData(record.path)
    with Progress.open(0, "") as progress, owned(record.path), progress.phase("play", 4) as phase:
        assert live.now()["live"] is None
        phase.advance(1)
        watch = Watch(limits=Limits(0.0))
        handle: Any = "rollout"
        watch.add(handle, "rollout", 3)
        with told_live(record.path, progress, watch):
            told = _wait_for(lambda: live.now()["live"])
        driver, actor = told["processes"]
        assert driver["name"] == "driver"
        assert driver["doing"].startswith("play: 1/4")
        assert driver["memory_gib"] > 0.01
        assert driver["pid"] == os.getpid()
        assert actor["name"] == "rollout actor 3"
        assert actor["doing"] == "nobody asks it (cluster.hang_s=0)"
        assert told["age_s"] < 60
        for left in ('{"processes": [', '{"pid": 1, "processes": []}'):
            (record.path / "live.json").write_text(left)
            assert live.now()["live"] is None, "half written, or of a killed job"
    assert set(memory_metrics(watch)) == {"memory/driver"}


def test_a_run_goes_on_without_its_live_file(
    record: RunFolder, capsys: pytest.CaptureFixture
) -> None:
    (record.path / "live.json").mkdir()
    with Progress.open(0, "") as progress, told_live(record.path, progress, Watch()):
        _wait_for(lambda: "the live page lacks" in capsys.readouterr().out)


def _wait_for(look: Callable[[], Any]) -> Any:
    """The first answer that is true."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("never true")


def test_a_growing_file_is_read_on_and_a_resumed_one_anew(record: RunFolder) -> None:
    live = LiveData(record.path)
    mark = live.now()["mark"]
    with record.metrics_file.open("a") as file:
        file.write('{"step": 3, "reward": 7')
    assert live.now()["mark"] == mark
    with record.metrics_file.open("a") as file:
        file.write("}\n")
    assert live.now()["mark"] != mark
    assert curve_of(live, "Reward") == {"reward": [0.5, 1.0, 7.0]}

    record.truncate_after(1)
    record.write_step(2, {"reward": 9.0}, {})
    record.write_step(3, {"reward": 9.5}, {})
    assert curve_of(live, "Reward") == {"reward": [0.5, 9.0, 9.5]}
    record.metrics_file.unlink()
    assert live.now()["step"] == 0


def test_odd_lines_cost_only_themselves(tmp_path: Path) -> None:
    lines = ["[]", "{", '{"reward": 1}', '{"step": 1, "reward": "x", "seconds": 3}', ""]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\xfe\n")
    append_lines(tmp_path / "metrics.jsonl", {"step": 2, "reward": 1.5, "<b>": 1.0})
    live = LiveData(tmp_path)
    assert curve_of(live, "Reward") == {"reward": [None, 1.5]}
    now = live.now()
    assert now["broken"] == 4
    assert "config.yaml is missing" in now["config"]
    (tmp_path / "config.yaml").write_text("system: [")
    assert "half written or of another version" in live.now()["config"]


def test_many_steps_become_few_points() -> None:
    steps = list(range(1, 5 * POINTS + 1))
    values = [float(step) for step in steps]
    xs, ys = thinned(steps, [None, *values[1:]], max)
    assert (len(xs), xs[-1], ys[-1], ys[0]) == (POINTS, 5 * POINTS, 5.0 * POINTS, 5.0)


def test_the_server_gives_the_page_its_data_and_nothing_else(record: RunFolder) -> None:
    with served(record.path) as home:
        for path in FILES:
            with urllib.request.urlopen(home + path) as answer:
                assert answer.read()
        with urllib.request.urlopen(f"{home}/now.json") as answer:
            assert json.load(answer)["name"] == "live"
        with urllib.request.urlopen(f"{home}/curves.json") as answer:
            assert json.load(answer)["charts"]
        for path in ("config.yaml", "../config.yaml", "live/../index.html", "live/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{home}/{path}")
        record.metrics_file.unlink()
        record.metrics_file.mkdir()
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            urllib.request.urlopen(f"{home}/now.json")
        assert b"IsADirectoryError" in caught.value.read()


def test_a_wrong_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/config.yaml").touch()
    (tmp_path / "runs/odd").mkdir()
    assert folder_of("first") == folder_of("runs/first")
    with pytest.raises(ValueError, match="no such run; did you mean first"):
        folder_of("frist")
    with pytest.raises(ValueError, match="neither config.yaml nor metrics.jsonl"):
        folder_of("odd")


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} cannot be used .*record.port"):
            train(["revseg_tiny", f"record.port={port}", f"runs={tmp_path}"])
    assert list(tmp_path.iterdir()) == []


def test_a_training_serves_its_page(record: RunFolder, capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with live_page(record.path, port):
        assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/now.json") as answer:
            assert json.load(answer)["step"] == 2
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/now.json")
    with live_page(record.path, 0):
        assert capsys.readouterr().out == ""
