"""The light parent of a long job: it starts the job as a child, and again when the child dies.

    if __name__ == "__main__":
        supervise()
        from ... import ...
        run_job(train)

In the parent `supervise` never returns. In the child it returns at once, and `tell` sends facts to
the parent over a pipe. Imports nothing slow: the parent stays as long as the job.

Exit codes of the child, and of the parent:

    0    done
    1    an error that another start would meet again
    75   stopped on request; the same command goes on
    130  ended at once by a second Ctrl-C
    else died: the parent starts it again, `cluster.max_restarts` times without a step in between

A child that could not say how it ended, killed or out of memory, is told to MLflow by the parent.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ray_jobs.driver.requests import PREEMPTED
from ray_jobs.record.outbox import last_status, name_of

# Exit code of an error that another start may not meet (EX_SOFTWARE of sysexits.h).
CRASHED = 70
# As a shell reports Ctrl-C.
INTERRUPTED = 130
FINAL = (0, 1, PREEMPTED, INTERRUPTED)

# Seconds before a restart: the first one's, doubled each time up to the longest.
FIRST_WAIT_S = 3.0
LONGEST_WAIT_S = 60.0

# Seconds between two looks at a child, and its signs of life in the time of a hang.
LOOK_S = 1.0
SIGNS = 10
# Share of `cluster.hang_s` after which a silent child hangs: the rest is for its stack.
CERTAIN = 0.8

# Most seconds for telling MLflow the end of a run.
END_S = 120.0

# In the environment of a child: its end of the pipe, and whether it goes on with an opened run.
CHILD = "RAYVOS_SUPERVISED"

PR_SET_PDEATHSIG = 1


class Hopeless(RuntimeError):
    """An error that another start would meet again."""


@dataclass
class Told:
    """What the children of one job told.

    Attributes:
        max_restarts: Restarts without a step in between; none until the settings are read.
        hang_s: Longest silence of a child; any until the settings are read.
        is_opened: The run folder is the job's own, so that a restart goes on in it.
        steps: Number of steps on record since the last death.
        folder: The run folder with the outbox of MLflow; empty before it is open.
    """

    max_restarts: int = 0
    hang_s: float = math.inf
    is_opened: bool = False
    steps: int = 0
    folder: str = ""

    def hear(self, line: str) -> None:
        """Take a line of a child, as `tell` writes them."""
        word, _, value = line.strip().partition(" ")
        if word == "max_restarts":
            self.max_restarts = int(value)
        elif word == "hang_s":
            self.hang_s = float(value) or math.inf
        elif word == "opened":
            self.is_opened = True
        elif word == "tracked":
            self.folder = value
        elif word == "step":
            self.steps += 1


@dataclass
class Supervisor:
    """The parent of one job.

    Attributes:
        command: Command line of the child.
        first_wait_s: Seconds before the first restart.
        told: What the children told.
        asked: The signal that asked for a stop, if there was one.
        child: The running child.
        heard: Time of its last line on the monotonic clock, in seconds.
    """

    command: Sequence[str]
    first_wait_s: float
    told: Told = field(default_factory=Told)
    asked: signal.Signals | None = None
    child: subprocess.Popen[bytes] | None = None
    heard: float = 0.0

    def run(self) -> int:
        """Run the job to its end, and see that MLflow knows the end; return the exit code."""
        code = self._run_to_end()
        if self.told.folder:
            _end_tracking(Path(self.told.folder), "FAILED" if self.asked is None else "KILLED")
        return code

    def _run_to_end(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        deaths = 0
        while True:
            code = self._run_child()
            if self.asked is not None:
                return _code_after(self.asked, code)
            if code in FINAL:
                return code
            if self.told.steps:
                deaths = 0
                self.told.steps = 0
            deaths += 1
            most = self.told.max_restarts
            if deaths > most:
                return code if code > 0 else 128 - code

            wait = min(self.first_wait_s * 2 ** (deaths - 1), LONGEST_WAIT_S)
            _say(f"{cause(code)}: starts again in {wait:g} s (restart {deaths} of {most})")
            self._sleep(wait)
            if self.asked is not None:
                return PREEMPTED

    def _run_child(self) -> int:
        """Start a child and wait for its end; return its exit code, negative for a signal."""
        own_end, childs_end = os.pipe()
        again = int(self.told.is_opened)
        environment = os.environ | {
            CHILD: f"{childs_end} {again} {os.getpid()}",
            # After the end of Ray a late call must not start another one.
            "RAY_ENABLE_AUTO_CONNECT": "0",
        }
        # In a group of its own, Ctrl-C reaches the parent alone, which passes it on once.
        self.child = subprocess.Popen(
            self.command, env=environment, pass_fds=(childs_end,), process_group=0
        )
        os.close(childs_end)
        reader = threading.Thread(target=self._listen, args=(own_end,), daemon=True)
        reader.start()
        if self.asked is not None:
            self.child.send_signal(self.asked)
        threading.Thread(target=self._watch, args=(self.child,), daemon=True).start()
        code = self.child.wait()
        _end_group(self.child.pid)
        reader.join(timeout=5.0)
        return code

    def _listen(self, end: int) -> None:
        with os.fdopen(end) as lines:
            for line in lines:
                self.heard = time.monotonic()
                self.told.hear(line)

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Kill a child that is silent for too long, so that it is started again."""
        self.told.hang_s = math.inf
        looked = self.heard = time.monotonic()
        while child.returncode is None:
            time.sleep(LOOK_S)
            now = time.monotonic()
            if now - looked > 2 * LOOK_S:
                # This process was stopped itself, and perhaps the whole machine.
                self.heard = now
            looked = now
            silence = now - self.heard
            if silence > CERTAIN * self.told.hang_s:
                who = f"the job's process (pid {child.pid})"
                _say(f"{who} hangs: no sign of life for {silence:.0f} s. Its stack, then its end:")
                _say(_stacks_of(child.pid))
                child.kill()
                return

    def _sleep(self, seconds: float) -> None:
        # In short pieces, because a signal handler that returns does not end a sleep.
        until = time.monotonic() + seconds
        while self.asked is None and time.monotonic() < until:
            time.sleep(0.1)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        if self.child is not None and self.child.returncode is None:
            self.child.send_signal(number)


def supervise(first_wait_s: float = FIRST_WAIT_S) -> None:
    """In the parent run this program as a child, to the end; in the child return at once."""
    if CHILD in os.environ:
        _become_child(os.environ.pop(CHILD))
        return
    command = [sys.executable, *sys.orig_argv[1:]]
    sys.exit(Supervisor(command, first_wait_s).run())


@dataclass
class _Place:
    """The place of this process below a parent.

    Attributes:
        end: Its end of the pipe; -1 without a parent.
        again: A process before this one opened the run.
    """

    end: int = -1
    again: bool = False


_here = _Place()


def _become_child(words: str) -> None:
    end, again, parent = map(int, words.split())
    # The kernel kills the child when the parent dies.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(CRASHED)
    os.set_inheritable(end, False)
    _here.end = end
    _here.again = bool(again)


def tell(fact: str) -> None:
    """Tell the parent a fact; without a parent nobody.

    Args:
        fact: `max_restarts N`, `tracked FOLDER`, `opened` or `step N`.
    """
    if _here.end >= 0:
        os.write(_here.end, f"{fact}\n".encode())


def show_life(hang_s: float) -> None:
    """Tell the parent from now on, again and again, that this process lives.

    Args:
        hang_s: Silence for which the parent takes it for hung; 0: none is too long.
    """
    tell(f"hang_s {hang_s}")

    def tell_it() -> None:
        while True:
            time.sleep(hang_s / SIGNS)
            tell("alive")

    if hang_s:
        # Python's own end may take a while, without threads.
        atexit.register(tell, "hang_s 0")
        threading.Thread(target=tell_it, name="sign-of-life", daemon=True).start()


def is_again() -> bool:
    """Return whether this process goes on with a run that a dead one had opened."""
    return _here.again


def cause(code: int) -> str:
    """Describe the end of a child in words."""
    if code < 0:
        return f"the job's process was ended by {signal.Signals(-code).name}"
    return f"the job's process ended with exit code {code}"


def _code_after(asked: signal.Signals, code: int) -> int:
    """Return the parent's exit code after a signal that was passed on."""
    if code in FINAL:
        return code
    # The child died on its way, for example while Ray was starting.
    return PREEMPTED if asked == signal.SIGTERM else INTERRUPTED


def _end_group(group: int) -> None:
    """End what a dead child has left behind, such as Ray's processes."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _stacks_of(pid: int) -> str:
    # Both are slow to import, and only a hang needs them.
    import psutil

    from cluster.autopsy import stacks_of

    return stacks_of(psutil.Process(pid)).stacks


def _end_tracking(folder: Path, status: str) -> None:
    """Tell MLflow the end of a run, unless its own process has told it."""
    if not name_of(folder) or last_status(folder):
        return
    command = [sys.executable, "-m", "ray_jobs.driver.end_tracking", str(folder), status]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, timeout=END_S, check=False)


def _say(text: str) -> None:
    print(text, flush=True)
