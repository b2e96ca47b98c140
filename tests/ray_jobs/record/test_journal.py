"""A journal after a kill, after a change of what it is about, and after damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_jobs.record.journal import Journal, fingerprint_of


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    file = tmp_path / "made" / "filter.jsonl"
    with Journal.open(file, "a") as journal:
        assert journal.done == {}
        journal.add("v/1", {"iou": 0.5})
        journal.add("v/2", None)
    with Journal.open(file, "a") as journal:
        assert journal.done == {"v/1": {"iou": 0.5}, "v/2": None}
        assert journal.found == 2
        journal.add("v/3", [1])
    assert list(Journal.open(file, "a").done) == ["v/1", "v/2", "v/3"]


def test_a_line_that_a_kill_cut_short_is_done_again(tmp_path: Path) -> None:
    file = tmp_path / "filter.jsonl"
    with Journal.open(file, "a") as journal:
        journal.add("v/1", 1)
        journal.add("v/2", 2)
    file.write_bytes(file.read_bytes()[:-4])
    with Journal.open(file, "a") as journal:
        assert journal.done == {"v/1": 1}
        journal.add("v/2", 3)
    assert Journal.open(file, "a").done == {"v/1": 1, "v/2": 3}


def test_an_error_in_between_loses_nothing(tmp_path: Path) -> None:
    try:
        with Journal.open(tmp_path / "j", "a") as journal:
            journal.add("v", 1)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert Journal.open(tmp_path / "j", "a").done == {"v": 1}


def test_another_fingerprint_starts_from_nothing(tmp_path: Path) -> None:
    file = tmp_path / "j"
    for content in (None, "no json at all\n"):
        if content:
            file.write_text(content)
        with Journal.open(file, "a") as journal:
            assert journal.done == {}
            journal.add("v", 1)
        assert Journal.open(file, "b").done == {}
        assert Journal.open(file, "a").done == {}, "it was started anew for b"
    journal.remove()
    assert not file.exists()


def test_fingerprints() -> None:
    assert fingerprint_of(["a", [1, 2]]) == fingerprint_of(["a", (1, 2)])
    different: list[list[Any]] = [["ab"], ["a", "b"], ["b", "a"], [1, "ab"], []]
    assert len({fingerprint_of(parts) for parts in different}) == 5
