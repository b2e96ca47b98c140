"""The live page in a real browser: curves, a run that grows, hostile words, a lost server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.load import load, to_yaml
from core.files import write_json
from ray_jobs.driver.live_server import LiveServer, live_server
from ray_jobs.record.owner import owned
from ray_jobs.record.run_folder import RunFolder
from tests.browser import Browser, browser, installed
from tests.ray_jobs.replay_run import HOSTILE

pytestmark = pytest.mark.skipif(
    installed() is None, reason="no browser is installed: make browser installs Chromium"
)

MAIN = "document.getElementById('main').textContent"
CARDS = "document.querySelectorAll('#charts .card').length"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def record(tmp_path: Path) -> RunFolder:
    settings = ["revseg_tiny", "train.steps=9"]
    record = RunFolder.open(tmp_path / "live <b>run", to_yaml(load(settings)))
    for step in range(1, 5):
        # Part names are a system's, but a run folder may come from anywhere.
        metrics = {"reward": 0.5 * step, f"reward/{HOSTILE}": 1.0, "kl": float("inf")}
        record.write_step(step, metrics | {"logprob_gap_mean": 10.0**-step}, {"play": 2.0})
    return record


@pytest.fixture
def server(record: RunFolder) -> Iterator[LiveServer]:
    with live_server(record.path, 0, "") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def tab(started: Browser, server: LiveServer) -> Iterator[Browser]:
    started.errors.clear()
    started.requests.clear()
    started.open(home_of(server))
    yield started
    # The page asks on until it is left, and its server is about to go.
    started.call("Page.navigate", url="about:blank")
    started.until("location.href === 'about:blank'")


def home_of(server: LiveServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def test_curves_and_state(tab: Browser, server: LiveServer) -> None:
    assert tab.value("document.title") == "live <b>run: step 4"
    assert "step 4 of 9" in tab.value("document.getElementById('subtitle').textContent")
    assert tab.value("document.querySelector('#charts h3').textContent") == "Reward"
    # One line through four steps.
    points = tab.value("document.querySelector('#charts polyline').getAttribute('points')")
    assert len(points.split()) == 4
    assert "no number yet" in tab.value(MAIN), "an infinite KL has no curve"
    assert {address for address in tab.requests if not address.startswith("about:")} <= {
        home_of(server) + path
        for path in (
            "",
            "page/style.css",
            "live/live.css",
            "page/dom.js",
            "live/charts.js",
            "live/main.js",
            "now.json",
            "curves.json",
        )
    } | {"data:,"}
    assert tab.errors == []


def test_values_under_the_pointer(tab: Browser) -> None:
    tab.value(
        "(() => { const chart = document.querySelector('#charts svg');"
        "const box = chart.getBoundingClientRect();"
        "const place = {clientX: box.left + box.width * 0.42};"
        "chart.dispatchEvent(new PointerEvent('pointermove', place));"
        "})()"
    )
    legend = tab.value("document.querySelector('#charts .legends').textContent")
    assert legend == "reward 1at step 2"


def test_a_finished_step_appears_by_itself(tab: Browser, record: RunFolder) -> None:
    before = tab.value(CARDS)
    record.write_step(5, {"reward": 2.5, "turns": 2.0}, {"play": 2.0})
    tab.until(f"{CARDS} === {before + 1}")
    assert tab.value("document.title").endswith("step 5")


def test_processes_of_a_running_job(tab: Browser, record: RunFolder) -> None:
    processes = [
        {
            "name": "driver",
            "doing": HOSTILE,
            "seconds": 75.0,
            "memory_gib": 2,
            "pid": 7,
            "host": "h",
        },
        {"name": "rollout actor 0", "doing": "play_group", "memory_gib": 1.25, "gpu_gib": 80.5},
        3,
    ]
    with owned(record.path):
        told = {"pid": os.getpid(), "written": time.time(), "processes": processes}
        write_json(record.path / "live.json", told)
        tab.until("document.querySelectorAll('#now tr').length === 4")
        rows = tab.value("[...document.querySelectorAll('#now tr')].map((row) => row.textContent)")
        assert rows[2] == "rollout actor 0play_group1.2580.5"
        assert rows[1].endswith("1 min2.00pid 7 on h")
        assert tab.value("document.querySelectorAll('#now script, #now img').length") == 0
    tab.until("document.querySelectorAll('#now tr').length === 0")
    assert tab.errors == []


def test_hostile_names_stay_words(tab: Browser) -> None:
    tab.until(f"{MAIN}.includes('</script><script>')")
    assert tab.value("document.querySelectorAll('#main script, #main img, header b').length") == 0
    assert tab.value(f"{MAIN}.includes('⟨U+202E⟩')")
    assert tab.errors == []


def test_a_server_that_is_gone_is_said(tab: Browser, server: LiveServer) -> None:
    server.shutdown()
    server.server_close()
    tab.until(f"{MAIN}.includes('does not answer')")
    # What was shown stays.
    assert tab.value(CARDS) > 1
