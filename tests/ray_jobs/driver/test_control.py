"""Questions to a running job: their words, the file that leads to it, and its answers."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.mailbox import Answer
from ray_jobs.control import find
from ray_jobs.driver import balance
from ray_jobs.driver.control import Control
from ray_jobs.driver.questions import questions_of
from ray_jobs.driver.requests import Requests
from ray_jobs.record.contact import FILE, Contact
from ray_jobs.record.owner import owned
from ray_jobs.record.run_folder import RunFolder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what should the run do"),
        (["workers"], "workers: unknown; choose from workers=N, status"),
        (["workers="], "workers=: expected a whole number of at least 1"),
        (["workers=0"], "workers=0: expected"),
        (["workers=-1"], "workers=-1: expected"),
        (["workers=1.5"], "workers=1.5: expected"),
        (["workers=six"], "workers=six: expected"),
        (["workers=²"], "workers=²: expected"),
        (["pause", "jump"], "jump: unknown; choose from"),
    ],
)
def test_wrong_words(words: Sequence[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        questions_of(words)


def test_words() -> None:
    assert questions_of(["workers=3", "pause"]) == ["workers=3", "pause"]


def test_only_its_owner_reads_the_door(tmp_path: Path) -> None:
    contact = Contact("host:1", "rayvos-1", "secret", "token")
    file = tmp_path / FILE
    file.write_text("of a killed run")
    file.chmod(0o644)
    contact.write(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Contact.read(file) == contact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "no JSON",
        '{"address": 1, "namespace": "n", "token": "t", "auth": ""}',
        '{"x": "y"}',
    ],
)
def test_a_damaged_door(tmp_path: Path, text: str) -> None:
    file = tmp_path / FILE
    file.write_text(text)
    with pytest.raises(ValueError, match=f"{FILE}: damaged"):
        Contact.read(file)


def make_run(folder: Path) -> Path:
    RunFolder.open(folder, "name: run\n")
    return folder


def test_a_run_that_does_not_exist(tmp_path: Path) -> None:
    make_run(tmp_path / "demo")
    with pytest.raises(ValueError, match="demi: no such run; did you mean demo?"):
        find(tmp_path / "demi")
    with pytest.raises(ValueError, match="no such run; give runs=FOLDER"):
        find(tmp_path / "elsewhere" / "demo")


def test_a_run_that_has_ended_or_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    with pytest.raises(ValueError, match="demo: the run has ended"):
        find(run)
    with owned(run):
        with pytest.raises(ValueError, match="starts or ends; try again in a minute"):
            find(run)
        contact = Contact("host:1", "rayvos-1", "secret", "token")
        contact.write(run / FILE)
        assert find(run)[0] == contact
    # The file of a killed run leads nowhere.
    with pytest.raises(ValueError, match="demo: the run has ended"):
        find(run)


def test_a_run_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "demo")
    with owned(run):
        Contact("host:1", "rayvos-1", "secret", "token").write(run / FILE)

        def refuse(file: Path) -> Contact:
            raise PermissionError(13, "Permission denied", str(file))

        # The tests may run as root, who may read everything.
        monkeypatch.setattr(Contact, "read", refuse)
        with pytest.raises(ValueError, match="demo: belongs to another user than"):
            find(run)


class Engines:
    """The engines as far as a user asks for them."""

    def want(self, workers: int) -> str:
        if workers > 8:
            raise ValueError(f"workers={workers}: at most 8")
        return f"workers: 1 -> {workers}"

    def status(self) -> str:
        return "rollout engines: 1 up"


def test_answers(tmp_path: Path) -> None:
    record = RunFolder.open(tmp_path / "demo", "name: demo\n")
    requests = Requests()
    control = Control(record, requests, cast(Any, Engines()))
    assert control.answer("workers=3") == Answer("workers: 1 -> 3")
    assert control.answer("workers=9") == Answer("workers=9: at most 8", done=False)
    assert not control.answer("workers=x").done
    assert not control.answer("__init__").done
    assert control.answer("resume").text == "resume: it was not paused"

    assert control.answer("status").text.splitlines() == [
        "status: runs; steps on record: 0",
        "rollout engines: 1 up",
    ]
    assert control.answer("pause").done
    assert requests.paused
    assert control.answer("checkpoint").text.startswith("checkpoint: written now")
    assert requests.take_checkpoint()
    assert control.answer("resume").done
    assert not requests.paused

    record.write_step(7, balance.of_step(4.0, 1.0, 2.0, {"play": 4.0}).metrics, {})
    assert control.answer("stop").done
    assert requests.stop is not None
    assert requests.stop.code == 0
    said = control.answer("status").text
    assert said.startswith("status: ends after the step under way; steps on record: 7")
    assert said.endswith("2 would balance it")


def test_a_failure_is_an_answer(tmp_path: Path) -> None:
    record = RunFolder.open(tmp_path / "demo", "name: demo\n")
    control = Control(record, Requests(), cast(Any, SimpleNamespace()))
    answer = control.answer("status")
    assert not answer.done
    assert "AttributeError" in answer.text
