"""The example of a whole step learns, and runs as a script."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.one_step import main

SCRIPT = Path(__file__).parents[2] / "examples" / "one_step.py"


def test_the_toy_policy_learns_to_answer_right(capsys: pytest.CaptureFixture[str]) -> None:
    rewards = main(steps=40)
    assert len(rewards) == 40
    assert rewards[0] < 1.5
    assert sum(rewards[-5:]) / 5 > 2.7
    assert "step 40" in capsys.readouterr().out


def test_steps_repeat() -> None:
    assert main(steps=3) == main(steps=3)


def test_it_runs_as_a_script() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step  1: mean reward")
