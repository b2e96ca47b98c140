"""Files on a disk that is full: one clear error, and everything that was there before."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.files import (
    UnwritableError,
    append_lines,
    disk_errors_named,
    read_json,
    read_lines,
    replacing,
    write_atomic,
    write_json,
)

LONG = "x" * 5000


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_log_keeps_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    append_lines(log, {"step": 1})
    message = r"metrics.jsonl could not be written \(File too large\), with \d+ MB free"
    with full_disk(2000), pytest.raises(UnwritableError, match=message):
        append_lines(log, {"step": 2}, {"step": 3, "text": LONG})
    assert log.read_bytes() == b'{"step": 1}\n'
    append_lines(log, {"step": 2})
    assert [line["step"] for line in read_lines(log)] == [1, 2]


def test_a_document_keeps_its_old_text(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_json(file, {"steps": 1})
    with full_disk(2000), pytest.raises(UnwritableError, match="summary.json could not be written"):
        write_json(file, {"steps": 2, "text": LONG})
    assert read_json(file, "") == {"steps": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_written_by_other_code(tmp_path: Path) -> None:
    with (
        full_disk(2000),
        pytest.raises(UnwritableError, match="table.csv could not be written"),
        replacing(tmp_path / "table.csv") as fresh,
    ):
        fresh.write_text(LONG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_errors_of_a_disk(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(UnwritableError, match=r"a/b could not be written .* give another folder"),
        disk_errors_named(tmp_path / "a" / "b"),
    ):
        raise OSError(number, "it says")


def test_a_full_disk_is_not_a_read_only_one(tmp_path: Path) -> None:
    for number, is_full in ((errno.ENOSPC, True), (errno.EROFS, False)):
        with pytest.raises(UnwritableError) as told, disk_errors_named(tmp_path / "a"):
            raise OSError(number, "it says")
        assert told.value.is_full == is_full


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), disk_errors_named(tmp_path / "a"):
        raise ConnectionError("gone")


def test_half_of_a_surrogate_pair(tmp_path: Path) -> None:
    """JSON allows it, so a sentence of a data set may hold it."""
    append_lines(tmp_path / "log", {"query": "a\ud800"})
    assert read_lines(tmp_path / "log") == [{"query": "a\ud800"}]
    write_atomic(tmp_path / "text", "a\ud800")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\xff", b"[" * 100_000])
def test_a_broken_document_is_named_with_its_remedy(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"summary.json is broken \(.*: start again"):
        read_json(file, "start again")
