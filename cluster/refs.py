"""Typed references to actors, and to values in Ray's object store."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

import ray
from ray._private import state as ray_state

from cluster.beat import GROUP, PACKED, beating

A_co = TypeVar("A_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


class Ref(Awaitable[T_co], Protocol[T_co]):
    """A Ray `ObjectRef` to a value of type T."""


# A method of an actor, as `Handle.call` takes it.
Method = Callable[Concatenate[A_co, P], T]
AsyncMethod = Callable[Concatenate[A_co, P], Coroutine[Any, Any, T]]


@dataclass(frozen=True)
class Where:
    """The process of an actor, running or lost.

    Attributes:
        pid: 0 while it waits for room on the cluster.
        node: id of its node in Ray.
        address: address of that node.
    """

    pid: int
    node: str
    address: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.address}" if self.pid else "no process"


class Handle(Generic[A_co]):
    """A running actor of class A.

        worker = start_actor(SegmenterActor, placement.options("segmenter"), cfg, device)
        ref = worker.call(SegmenterActor.segment, video, prompts)

    `call` names the method through its class, so a type checker sees arguments and result.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @overload
    def call(  # type: ignore[overload-overlap]
        self,
        method: AsyncMethod[A_co, P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Ref[T]: ...

    @overload
    def call(
        self,
        method: Method[A_co, P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Ref[T]: ...

    def call(self, method: Callable, *args: Any, **kwargs: Any) -> Ref[Any]:
        """Start a method of the actor and return a reference to its result."""
        remote_method = getattr(self.actor, method.__name__)
        return remote_method.remote(*args, **kwargs)

    @overload
    def call_packed(  # type: ignore[overload-overlap]
        self,
        method: AsyncMethod[A_co, P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Ref[T]: ...

    @overload
    def call_packed(
        self,
        method: Method[A_co, P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Ref[T]: ...

    def call_packed(self, method: Callable, *args: Any, **kwargs: Any) -> Ref[Any]:
        """Start a method as `call`, several times as fast if it has many arguments.

        They travel as one string of bytes, made by Python's own pickler: Ray's asks about every
        object, and looks at each argument. So there may be no reference of Ray among them.
        """
        remote_method = getattr(self.actor, method.__name__ + PACKED)
        return remote_method.remote(pickle.dumps((args, kwargs), protocol=5))

    def constructed(self) -> Ref[Any]:
        """Return a reference that is ready once the constructor has run."""
        return self.actor.__ray_ready__.remote()

    def where(self) -> Where:
        """Return the process of the actor, as Ray knows it; that of a dead one, too."""
        found = ray_state.actors(self.actor._actor_id.hex())
        # Ray has not heard of it yet.
        if not found:
            return Where(0, "", "")
        address = found["Address"]
        return Where(found["Pid"], address["NodeID"], address["IPAddress"])

    def kill(self) -> None:
        """End the actor's process at once."""
        ray.kill(self.actor)


def start_actor(
    cls: Callable[P, A_co],
    options: Mapping[str, Any],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Handle[A_co]:
    """Start an actor of a class with Ray options; return before its constructor has run.

    It answers what it is doing while it works (`cluster.beat`).
    """
    remote_class = ray.remote(concurrency_groups={GROUP: 1})(beating(cls)).options(**options)
    return Handle(remote_class.remote(*args, **kwargs))


class Parcel:
    """A pickled value on its way to another process, where it arrives as itself."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.raw,)


def get(ref: Ref[T], timeout: float | None = None) -> T:
    """Wait for one result. Raises the error of the task, or Ray's error if its process died."""
    return ray.get(ref, timeout=timeout)


def results(refs: Sequence[Ref[T]]) -> list[T]:
    """Wait for several results.

    Raises:
        ValueError: a user's mistake found by a task, as a plain error.
    """
    try:
        return ray.get(list(refs))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise


def call_all(
    workers: Iterable[Handle[A_co]],
    method: Method[A_co, P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> list[T]:
    """Call a method of several actors at once; wait for all. Raises the errors of `results`."""
    calls: list[Ref[T]] = []
    for worker in workers:
        calls.append(worker.call(method, *args, **kwargs))
    return results(calls)
