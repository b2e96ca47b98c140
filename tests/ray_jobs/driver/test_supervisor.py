"""The parent of a job, with real small children."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from configs.load import REPOSITORY
from ray_jobs.driver.supervisor import Told, cause

# A job in a few lines: the first argument names its end, the second is a file for each start.
JOB = """
from ray_jobs.driver import supervisor
supervisor.supervise(first_wait_s=0.05)

import os, signal, sys, time
kind, file = sys.argv[1:]
with open(file, "a") as starts:
    starts.write(f"{os.getpid()} {supervisor.is_again()}\\n")
count = len(open(file).readlines())
supervisor.tell("max_restarts 2")
supervisor.tell("opened")
if kind == "steps":
    supervisor.tell(f"step {count}")
    if count == 5:
        sys.exit(0)
if kind == "twice" and count == 3:
    sys.exit(0)
if kind == "hang":
    if count == 2:
        sys.exit(0)
    supervisor.show_life(2)
    time.sleep(4)
    os.kill(os.getpid(), signal.SIGSTOP)
if kind.isdigit():
    sys.exit(int(kind))
if kind == "wait":
    print("ready", flush=True)
    time.sleep(60)
os.kill(os.getpid(), signal.SIGKILL)
"""


def command(tmp_path: Path, kind: str) -> list[str]:
    file = tmp_path / "job.py"
    file.write_text(JOB)
    return [sys.executable, str(file), kind, str(tmp_path / "starts")]


def start(tmp_path: Path, kind: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command(tmp_path, kind), env=environment, stdout=subprocess.PIPE, text=True
    )


def starts(tmp_path: Path) -> list[str]:
    """Return for each start whether it went on with an opened run."""
    return [line.split()[1] for line in (tmp_path / "starts").read_text().splitlines()]


def child(tmp_path: Path) -> psutil.Process:
    """Return the last child."""
    last = (tmp_path / "starts").read_text().splitlines()[-1]
    return psutil.Process(int(last.split()[0]))


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_final_code_is_the_parents_own(tmp_path: Path, code: int) -> None:
    with start(tmp_path, str(code)) as parent:
        assert parent.wait(30) == code
    assert starts(tmp_path) == ["False"]


def test_a_killed_job_is_started_again_and_goes_on(tmp_path: Path) -> None:
    with start(tmp_path, "twice") as parent:
        said, _ = parent.communicate(timeout=30)
        assert parent.returncode == 0
    assert starts(tmp_path) == ["False", "True", "True"]
    first, second = said.splitlines()
    assert first.startswith("the job's process was ended by SIGKILL: starts again in")
    assert second.endswith("(restart 2 of 2)")


def test_a_stopped_job_is_named_and_started_again(tmp_path: Path) -> None:
    with start(tmp_path, "hang") as parent:
        said, _ = parent.communicate(timeout=60)
        assert parent.returncode == 0
    hangs, *stack, again = said.splitlines()
    assert re.match(r"the job's process \(pid \d+\) hangs: no sign of life for \d s", hangs)
    assert "job.py" in "".join(stack)
    assert again.startswith("the job's process was ended by SIGKILL: starts again in")
    assert starts(tmp_path) == ["False", "True"]


def test_restarts_without_a_step_come_to_an_end(tmp_path: Path) -> None:
    with start(tmp_path, "die") as parent:
        assert parent.wait(30) == 128 + signal.SIGKILL
    assert len(starts(tmp_path)) == 3


def test_a_step_gives_all_restarts_back(tmp_path: Path) -> None:
    with start(tmp_path, "steps") as parent:
        assert parent.wait(30) == 0
    assert len(starts(tmp_path)) == 5


def test_sigterm_reaches_the_child_and_ends_with_75(tmp_path: Path) -> None:
    with start(tmp_path, "wait") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 75
    assert len(starts(tmp_path)) == 1


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    with start(tmp_path, "wait") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        job = child(tmp_path)
        parent.kill()
        psutil.wait_procs([job], timeout=30)
        assert not job.is_running() or job.status() == psutil.STATUS_ZOMBIE


def test_nothing_is_restarted_before_the_settings_are_read() -> None:
    assert Told().max_restarts == 0


def test_causes() -> None:
    assert cause(-9) == "the job's process was ended by SIGKILL"
    assert cause(70) == "the job's process ended with exit code 70"


def test_the_parent_is_light() -> None:
    code = "import sys; import ray_jobs.driver.supervisor; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not {"numpy", "torch", "ray", "yaml"} & set(done.stdout.split())
