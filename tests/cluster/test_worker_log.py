"""The logs behind an error of Ray's, found by the process that it names."""

from __future__ import annotations

from pathlib import Path

from cluster.worker_log import LINES, log_notes


def test_an_error_and_its_cause_name_the_ends_of_their_logs(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(500)]
    (tmp_path / "worker-abc-ffff-123.err").write_text("\n".join([*lines, "", "no memory left"]))
    (tmp_path / "worker-abc-ffff-1234.err").write_text("another process\n")
    (tmp_path / "worker-def-ffff-77.err").write_bytes(b"\xff cause\n")
    (tmp_path / "worker-def-ffff-88.err").write_text("")
    error = RuntimeError("the actor died (pid=123, ip=127.0.0.1), also (pid=88) and (pid=99)")
    error.__cause__ = RuntimeError("Worker exit detail, pid: 77")
    first, second = log_notes(error, tmp_path)
    head, *rest = first.splitlines()
    assert head == f"log of process 123: {tmp_path}/worker-abc-ffff-123.err"
    assert len(rest) == LINES
    assert rest[-1] == "  no memory left"
    assert rest[0] == f"  line {500 - LINES + 1}"
    assert second.splitlines()[1] == "  \ufffd cause"
    assert log_notes(RuntimeError("no process"), tmp_path) == []


def test_a_circle_of_causes_ends(tmp_path: Path) -> None:
    first = RuntimeError("pid=1")
    second = RuntimeError("pid=2")
    first.__cause__ = second
    second.__cause__ = first
    assert log_notes(first, tmp_path) == []
