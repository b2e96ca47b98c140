"""How a job's process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

JOB = """
import atexit
from ray_jobs.driver.entry import run_job

class Slow:
    def __del__(self):
        print("taken apart")

kept = Slow()

def job(argv):
    atexit.register(print, "left behind is closed")
    print("done")
    {end}

run_job(job)
"""


@pytest.mark.parametrize(
    ("end", "code", "out"),
    [
        ("pass", 0, ["done", "left behind is closed"]),
        ("raise SystemExit(0)", 0, ["done", "left behind is closed", "taken apart"]),
        ("raise SystemExit(3)", 3, ["done", "left behind is closed", "taken apart"]),
        ("raise ValueError('bad')", 1, ["done", "left behind is closed", "taken apart"]),
        ("raise KeyError('odd')", 70, ["done"]),
    ],
)
def test_the_end_of_a_process(end: str, code: int, out: list[str]) -> None:
    command = [sys.executable, "-c", JOB.format(end=end)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (code, out), done.stderr
