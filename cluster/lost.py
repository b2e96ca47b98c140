"""Lost processes: which errors of Ray mean one, in words, and how many there were.

A process is lost if it was killed, by a signal, with its node, or for its memory. Whoever waited
for it gets one of `LOST`, and starts another one. An error that the process raised itself is no
loss: it would be raised again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from ray import exceptions

# Errors of Ray that mean: the process that worked on this task is gone, or so is its result.
# ObjectLostError has subclasses: the result's node, its owner, or the way there is gone.
LOST = (
    exceptions.RayActorError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.LocalRayletDiedError,
    exceptions.ObjectLostError,
)

# Begins a user's mistake at the end of a traceback.
MISTAKE = "\nValueError: "


def is_lost(error: BaseException) -> bool:
    """Return True if the process is gone; False if it lives, or ended by an error of its own.

    A task that needed a lost object, such as weights of a dead rank, raises that error inside a
    RayTaskError: its own process lives.
    """
    if isinstance(error, exceptions.RayTaskError):
        return False
    return isinstance(error, LOST) and not failed_to_start(error)


def failed_to_start(error: BaseException) -> bool:
    """Return True if an actor's constructor raised an error; another start would raise it too."""
    return isinstance(error, exceptions.RayActorError) and error.actor_init_failed


def as_own_error(error: Exception) -> Exception:
    """Return a user's mistake that a constructor found as a plain ValueError; others as they are.

    Ray keeps only the text of an error in a constructor.
    """
    if not failed_to_start(error):
        return error
    _, mistake, message = str(error).rpartition(MISTAKE)
    # Frames behind it: another error was raised while this one was handled.
    if mistake and "\n  File " not in message:
        return ValueError(message)
    return error


def cause(error: BaseException) -> str:
    """Return in a few words why a process was lost, with a remedy if there is one."""
    text = str(error)
    if isinstance(error, exceptions.OutOfMemoryError) or "low on memory" in text:
        return (
            "Ray's memory monitor killed it, because its node was out of memory (if this repeats: "
            "fewer workers, smaller batches, or nothing else on that node)"
        )
    if isinstance(error, exceptions.GetTimeoutError):
        return "no result in time"
    if isinstance(error, exceptions.NodeDiedError) or "node has died" in text:
        return "its node died"
    if isinstance(error, exceptions.ObjectLostError):
        return "its result is lost with the node that held it"
    return "its process was killed or crashed"


class Deaths:
    """The lost processes of a job by their kind: counted, and said in one line each.

    Attributes:
        total: number of each kind since the start.
        say: prints lines for the user.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self.total: Counter[str] = Counter()
        self.say = say
        self._reported: Counter[str] = Counter()
        # Pools are used by several threads.
        self._lock = threading.Lock()

    def add(self, kind: str, who: str, why: str, then: str) -> None:
        """Count a loss, and say it.

        Args:
            kind: rollout, reward, segmenter, drawer, judge or learner.
            who: number, pid and node of the process.
            then: what is done about it.
        """
        with self._lock:
            self.total[kind] += 1
        self.say(f"{kind} {who} is lost: {why}; {then}")

    def metrics(self) -> dict[str, float]:
        """Return the losses of each kind since the last call, as `deaths/<kind>`."""
        with self._lock:
            new = self.total - self._reported
            self._reported = self.total.copy()
        return {f"deaths/{kind}": float(count) for kind, count in new.items()}
