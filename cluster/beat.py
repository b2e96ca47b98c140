"""An actor's side of the beat: it answers what it is doing while its methods work.

`beating` gives every actor the questions of `Beat`. They have a concurrency group of their
own, so they are answered by another thread than the methods' one. The other side is
`cluster.watch`.
"""

from __future__ import annotations

import functools
import inspect
import math
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import ray

from cluster.usage import Usage, usage
from core.pulse import Pulse, Span, keep_spans, pulse, take_spans, working

C = TypeVar("C", bound=Callable[..., Any])

# The concurrency group of the questions.
GROUP = "beat"
# Code in which a rank waits for all others.
COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/")
# End of the name under which a method takes its arguments packed (`cluster.refs.Handle`).
PACKED = "_packed"
# Marks a method that may stay long without a tick.
PATIENCE = "_patience_s"


@dataclass(frozen=True)
class Answer:
    """An actor's answer.

    Attributes:
        pulse: what it is doing.
        waits: it waits for others in a collective operation.
        usage: its process and memory; None if nobody measured them.
    """

    pulse: Pulse
    waits: bool
    usage: Usage | None = None


class Beat:
    """The questions that every actor answers."""

    @ray.method(concurrency_group=GROUP)
    def beat(self) -> Answer:
        """Return what this process is doing."""
        return Answer(pulse(), waits_for_others(), usage())

    @ray.method(concurrency_group=GROUP)
    def stacks(self) -> str:
        """Return the Python stacks of this process."""
        return own_stacks()

    @ray.method(concurrency_group=GROUP)
    def keep_spans(self) -> None:
        """Keep all works from now on."""
        keep_spans()

    @ray.method(concurrency_group=GROUP)
    def take_spans(self) -> list[Span]:
        """Return the works that were kept."""
        return take_spans()


def patient(method: C) -> C:
    """Mark an actor's method that loads or writes much: it may be silent as long as a start."""
    setattr(method, PATIENCE, math.inf)
    return method


@functools.cache
def beating(cls: Any) -> Any:
    """Return an actor class with the questions of `Beat`; its public methods count as work."""
    members: dict[str, Any] = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            counted = _counted(name, method)
            members[name] = counted
            members[name + PACKED] = _unpacking(counted)
    # Ray shows the name of the class in its messages and as the title of the process.
    members |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls, Beat), members)


def _counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method as work under this name."""
    patience_s = getattr(method, PATIENCE, 0.0)
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def counted_coroutine(*args: Any, **kwargs: Any) -> Any:
            with working(name, patience_s):
                return await method(*args, **kwargs)

        return counted_coroutine

    @functools.wraps(method)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with working(name, patience_s):
            return method(*args, **kwargs)

    return counted


def _unpacking(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method with its arguments as one string of bytes."""
    if inspect.iscoroutinefunction(method):

        async def unpacking_coroutine(self: Any, raw: bytes) -> Any:
            args, kwargs = pickle.loads(raw)
            return await method(self, *args, **kwargs)

        return unpacking_coroutine

    def unpacking(self: Any, raw: bytes) -> Any:
        args, kwargs = pickle.loads(raw)
        return method(self, *args, **kwargs)

    return unpacking


def waits_for_others() -> bool:
    """Return True if a thread of this process is inside a collective operation."""
    for frame in _other_threads().values():
        inner: FrameType | None = frame
        while inner is not None:
            file = inner.f_code.co_filename
            if any(part in file for part in COLLECTIVES):
                return True
            inner = inner.f_back
    return False


def own_stacks() -> str:
    """Return the Python stacks of the other threads of this process, newest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in _other_threads().items():
        lines = "".join(traceback.format_stack(frame))
        parts.append(f"Thread {names.get(ident, ident)}\n{lines}")
    return "\n".join(parts)


def _other_threads() -> dict[int, FrameType]:
    own = threading.get_ident()
    frames = sys._current_frames()
    return {ident: frame for ident, frame in frames.items() if ident != own}
