"""The display: plain lines in a log, a live screen on a pseudo-terminal, never wider than it."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.load import REPOSITORY
from ray_jobs.record.progress import BARS, FIRST_S, TELL_S, Progress, Screen, duration, sparkline

METRICS = {
    "reward": 1.25,
    "reward/format": 1.0,
    "reward/temporal": 0.25,
    "logprob_gap_mean": 2e-6,
    "loss": 0.1,
}
SECONDS = {"play": 1.5, "learn": 2.0}


def _run(progress: Progress) -> None:
    with progress:
        with progress.phase("before: play", total=2) as phase:
            phase.advance(2)
        for step in range(1, 4):
            with progress.phase("play", total=1):
                progress.step(step, METRICS, SECONDS)
        progress.note("[note] stays")
        progress.table("result", [["", "before", "after"], ["J&F", "1.0", "2.0"]])


def test_a_log_gets_one_line_a_step_and_one_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    _run(Progress.open(10, "my title"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "my title"
    assert lines[1].startswith("✓ before: play 0.0 s")
    first = "step  1/10  reward 1.250 (format 1.00 temporal 0.25)  gap 2.0e-06  3.5 s"
    assert lines[2].startswith(first)
    assert [line.split()[1] for line in lines[2:5]] == ["1/10", "2/10", "3/10"]
    assert lines[5] == "[note] stays"
    assert "│ J&F │    1.0 │   2.0 │" in lines[-2]


def test_a_long_phase_says_in_a_log_how_far_it_is_and_what_comes_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        Progress.open(0, "title") as progress,
        progress.phase("before, greedy", 40, "steps 1 to 9") as phase,
    ):
        phase.advance(10)
        assert phase.state().endswith(", then steps 1 to 9")
        # The first line comes early, the next ones more seldom.
        for passed in (FIRST_S, TELL_S):
            phase.began -= passed
            phase.told -= passed
            phase.advance(5)
            phase.advance(5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == [
        "before, greedy: 15/40, 10.0 s, about 16.7 s left, then steps 1 to 9",
        "before, greedy: 25/40, 1 min 10 s, about 42.0 s left, then steps 1 to 9",
    ]


def test_a_failing_phase_is_named_and_the_error_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Progress.open(10, "t") as progress,
        progress.phase("learn"),
    ):
        raise ZeroDivisionError
    assert "✗ learn failed after" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_screen_fits_and_shows_the_last_steps(width: int) -> None:
    console = Screen(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress = Progress(100, "title", console, live=False)
    for step in range(1, 21):
        progress.step(step, {**METRICS, "reward": step / 10}, SECONDS)
    with progress.phase("learn", total=4) as phase:
        phase.advance(3)
        console.print(progress.screen())
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert "step 20 of 100" in text
    assert "3/4" in text
    assert "2.000" in text
    assert "1.200" not in text
    # Columns that do not fit are left out whole.
    assert ("play" in text) == (width > 60)


def _on_a_terminal(code: str) -> str:
    """What a program writes to a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        # The child: its standard streams are a terminal now.
        os.chdir(REPOSITORY)
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:
        # Linux reports the closed other end of a terminal like this.
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return shown.decode()


def _screen_after(written: str) -> list[str]:
    """Return the lines of an endless screen after line feeds, cursor up and erase line."""
    rows = [""]
    row = 0
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", written):
        if piece == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif piece.endswith("A") and piece.startswith("\x1b["):
            row -= int(piece[2:-1])
        elif piece == "\x1b[2K":
            rows[row] = ""
        elif piece != "\r" and not piece.startswith("\x1b["):
            rows[row] += piece
    return [line for line in rows if line]


LIVE = """
from tests.ray_jobs.record.test_progress import Progress, _run
_run(Progress.open(10, "my title"))
"""


def test_on_a_terminal_it_is_live_and_leaves_the_cursor_as_it_was() -> None:
    text = _on_a_terminal(LIVE)
    assert text.count("\x1b[?25l") >= 1
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    lines = _screen_after(text)
    assert lines[0].startswith("✓ before: play")
    assert lines[1] == "[note] stays"
    assert lines[2].startswith("╭─ my title")
    assert "step 3 of 10" in lines[3]
    # The final table is below the live part.
    assert lines[-2].startswith("│ J&F")


RACE = """
import threading, time
import ray_jobs.record.progress
ray_jobs.record.progress.REFRESH_S = 0.001
with ray_jobs.record.progress.Progress.open(10, "t") as progress:
    def write(say):
        for i in range(30):
            say(f"line {i}")
            time.sleep(0.002)
    threads = [threading.Thread(target=write, args=(say,)) for say in (progress.note, print)]
    [t.start() for t in threads]
    for step in range(40):
        with progress.phase("play"):
            time.sleep(0.002)
        progress.step(step, {"reward": 1.0}, {"play": 1.0})
    [t.join() for t in threads]
"""


def test_lines_from_other_threads_survive_the_refreshing() -> None:
    lines = _screen_after(_on_a_terminal(RACE))
    kept = [line for line in lines if line.startswith("line")]
    assert sorted(kept) == sorted([f"line {i}" for i in range(30)] * 2)
    assert sum(line.startswith("╭") for line in lines) == 1


def test_it_may_be_called_from_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress.open(10, "t") as progress:
        threads = [threading.Thread(target=progress.note, args=(f"note {i}",)) for i in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[1:]) == sorted(f"note {i}" for i in range(20))


def test_remaining_counts_steps_not_calls() -> None:
    progress = Progress(100, "t", Screen(file=io.StringIO()), live=False)
    assert progress.remaining() is None
    progress.step(51, METRICS, SECONDS)  # resumed: step 51 is the first one seen
    assert progress.remaining() == pytest.approx(49 * 3.5)


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 60))
def test_sparkline(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BARS)


def test_sparkline_goes_from_lowest_to_highest() -> None:
    assert sparkline([1, 2, 3], 10) == "▁▅█"
    assert sparkline([1, 1, 3, 3], 2) == "▁█"
    assert sparkline([2, 2], 10) == "▁▁"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (4.2, "4.2 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
