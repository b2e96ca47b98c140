"""One run, one owner: who is refused, who takes over, and what is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.load import REPOSITORY
from ray_jobs.record.owner import STALE_S, Owner, owned

HOLD = """
import sys, time
from pathlib import Path
from ray_jobs.record.owner import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


def other_process(folder: Path) -> subprocess.Popen[str]:
    """Start a process that owns `folder`, and wait until it does."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process


def lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.owner.json")


def test_a_second_process_is_refused_and_takes_over_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = other_process(folder)
    try:
        with pytest.raises(ValueError) as error, owned(folder):
            pass
        assert f"process {process.pid} on {socket.gethostname()}" in str(error.value)
        assert "name=" in str(error.value)
        # Another folder is free.
        with owned(tmp_path / "other"):
            pass
    finally:
        process.kill()
        process.communicate()

    assert lock_of(folder).exists()
    with owned(folder):
        assert Owner(**json.loads(lock_of(folder).read_text())) == Owner.here()
    assert not lock_of(folder).exists()


def test_a_later_process_with_the_same_pid_is_not_the_owner(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock = {"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}
    lock_of(folder).write_text(json.dumps(lock))
    with owned(folder):
        pass


def test_an_owner_on_another_host_counts_while_it_renews_its_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock = lock_of(folder)
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0}))
    with pytest.raises(ValueError, match="process 1 on elsewhere"), owned(folder):
        pass

    old = time.time() - STALE_S - 1
    os.utime(lock, (old, old))
    with owned(folder):
        pass


@pytest.mark.parametrize("text", ["", "[]", '{"host": 1}'])
def test_an_unreadable_lock_is_taken_over(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "run"
    lock_of(folder).write_text(text)
    with owned(folder):
        pass


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), owned(tmp_path / "run"):
        raise KeyError
    assert not lock_of(tmp_path / "run").exists()
