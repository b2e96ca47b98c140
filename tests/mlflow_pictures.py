"""The compare view of MLflow for runs on disk: a fresh database, MLflow's own server, a browser.

Runs are sent as training sends them, with their parameters, tags and steps. Their folders stay as
they are.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from configs.load import load
from ray_jobs.driver.tracking import params_of, tags_of
from ray_jobs.record.mlflow_writer import STATE, MlflowWriter
from ray_jobs.record.run_folder import RunFolder
from tests.browser import browser

EXPERIMENT = "rayvos"
# A machine under load imports MLflow slowly.
PATIENCE_S = 240.0
# The heading of the view, and what lies below it.
THERE = "document.body && document.body.innerText.includes('Comparing 2 Runs')"
# Close the panel beside the view, fold its plots, and leave what differs.
TIDY = """(() => {
    const named = (label) => document.querySelector(`[aria-label="${label} - Show diff only"]`);
    const panel = '[data-component-id^="mlflow.assistant"]';
    const closing = document.querySelector(`${panel}[aria-label="Close"]`);
    const plots = [...document.querySelectorAll("[role=button][aria-expanded=true]")]
        .filter((each) => each.innerText.trim() === "Visualizations");
    for (const each of [named("Parameters"), named("Metrics"), closing, ...plots]) {
        if (each) each.click();
    }
})()"""
# Its parts move into their places.
SETTLED = "new Promise((done) => setTimeout(done, 3000))"


def picture(runs: Sequence[Path], file: Path) -> None:
    """Send two runs to a fresh MLflow and write a picture of its compare view, a .png."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        uri = f"sqlite:///{home}/mlflow.db"
        runs_json = json.dumps([sent(run, home, uri) for run in runs])
        with server(uri, home / "server.log") as address, browser(home / "profile") as tab:
            # The first experiment beside MLflow's own.
            asked = f"runs={quote(runs_json)}&experiments={quote(json.dumps(['1']))}"
            tab.call("Page.navigate", url=f"{address}/#/compare-runs?{asked}")
            tab.until(THERE, PATIENCE_S)
            tab.value(TIDY)
            tab.screenshot(file)
            tab.value(SETTLED)
            tab.screenshot(file)


def sent(run: Path, home: Path, uri: str) -> str:
    """Send a run to MLflow by way of an outbox of its own below `home`; return its id there."""
    folder = home / run.name
    folder.mkdir()
    shutil.copy(run / "environment.json", folder)
    cfg = load([str(run / "config.yaml")])
    tags = tags_of(cfg, "", folder, ())
    writer = MlflowWriter(uri, EXPERIMENT, run.name, folder, params_of(cfg), tags=tags)
    for line in RunFolder(run).steps():
        metrics = dict(line)
        step = metrics.pop("step")
        metrics.pop("seconds")
        writer.metrics(step, metrics)
    assert writer.close(PATIENCE_S), f"MLflow did not take {run}"
    run_id: str = json.loads((folder / STATE).read_text())[uri]["run_id"]
    return run_id


@contextmanager
def server(uri: str, log: Path) -> Iterator[str]:
    """Start MLflow's server on a database and return its address; it ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health"):
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"MLflow's server did not start: {log.read_text()}")
