"""A page never breaks on one episode: fields of any form, no pictures, a run half written."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.files import append_lines
from ray_jobs.replay import write_site
from tests.browser import Browser, browser, installed
from tests.ray_jobs.replay_run import write_run

pytestmark = pytest.mark.skipif(
    installed() is None, reason="no browser is installed: make browser installs Chromium"
)

ODD: tuple[Any, ...] = (None, -1.5, "<b>", [None], [[1, 2], "y"], {"a": None})
FIRST_ODD_STEP = 100
# Episodes of one question to the browser, which must be answered in time.
AT_ONCE = 40
# Opens some episodes in each view about episodes; returns what was wrong.
OPEN = """(async (first, behind) => {
    const wrong = [];
    let pictures = 0;
    for (const row of page.list.all.slice(first, behind)) {
        for (const view of ["group", "sample", "episode"]) {
            await open(row, view);
            const text = document.getElementById("main").textContent;
            if (!text) wrong.push([row.number, view, "empty"]);
            if (text.includes("This cannot be shown")) wrong.push([row.number, view, text]);
        }
        pictures += document.querySelectorAll("#main canvas").length;
    }
    return { wrong, pictures };
})"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def mutants(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies of a line in which one field, or one inside of it, has another form."""
    for name in value:
        for odd in ODD:
            yield {**copy.deepcopy(value), name: odd}
        inner = value[name]
        if isinstance(inner, dict):
            for below in mutants(inner):
                yield {**copy.deepcopy(value), name: below}
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for below in mutants(inner[0]):
                yield {**copy.deepcopy(value), name: [below, *inner[1:]]}
        elif isinstance(inner, list) and inner:
            for odd in ODD:
                yield {**copy.deepcopy(value), name: [odd, *inner[1:]]}


def opened(tab: Browser, run: Path) -> dict[str, Any]:
    """Open the page of a run and all its episodes; say what was wrong."""
    tab.errors.clear()
    tab.open(write_site([run]).as_uri())
    assert tab.value("document.body.dataset.ready") == "yes"
    found: dict[str, Any] = {"wrong": [], "pictures": 0, "rows": tab.value("page.list.all.length")}
    for first in range(0, found["rows"], AT_ONCE):
        some = tab.value(f"{OPEN}({first}, {first + AT_ONCE})")
        found["wrong"] += some["wrong"]
        found["pictures"] += some["pictures"]
    tab.value("open(page.list.all[0], 'episode')")
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("odd"), "odd", steps=1)


def test_episodes_with_fields_of_any_form(tab: Browser, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "odd"))
    first = json.loads((run / "episodes.jsonl").read_bytes().splitlines()[0])
    # Each alone in its group and its sample, unless that is what is odd.
    lines = []
    for number, line in enumerate(mutants(first)):
        lines.append(line | {"query": f"number {number}"})
        if line["sample"] == first["sample"]:
            lines[-1]["sample"] = f"v/{FIRST_ODD_STEP + number}"
    append_lines(run / "episodes.jsonl", *lines)
    found = opened(tab, run)
    assert found["wrong"] == []
    assert found["rows"] == 8 + len(lines)
    assert tab.errors == []


def test_kept_groups_with_fields_of_any_form(tab: Browser, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "odd"))
    first = json.loads((run / "episodes.jsonl").read_bytes().splitlines()[0])
    kept = run / "replay/kept"
    group = json.loads((kept / "step_1.jsonl").read_bytes().splitlines()[0])
    for step, odd in enumerate(mutants(group), FIRST_ODD_STEP):
        uid = f"v/{step}"
        if odd["sample"] == group["sample"]:
            odd["sample"] = uid
        append_lines(kept / f"step_{step}.jsonl", odd)
        append_lines(run / "episodes.jsonl", {**first, "step": step, "sample": uid})
    found = opened(tab, run)
    assert found["wrong"] == []
    odd_groups = step - FIRST_ODD_STEP + 1
    assert found["pictures"] > 0.75 * odd_groups, "most can be shown in spite of it"
    # A picture may be named that is not there; anything else must be caught.
    assert [error for error in tab.errors if "ERR_FILE_NOT_FOUND" not in error] == []


def test_a_run_without_pictures_and_without_its_configuration(
    tab: Browser, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "odd"))
    shutil.rmtree(run / "replay")
    (run / "config.yaml").unlink()
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"step": 2, "sample": "v/0", "ep')
    found = opened(tab, run)
    assert (found["wrong"], found["pictures"], found["rows"]) == ([], 0, 8)
    text = tab.value("document.getElementById('main').textContent")
    assert "No pictures were kept of this episode" in text
    assert tab.errors == []
