"""Join a Ray cluster, or start one on this machine, and place the actors of a run on it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import ray

from cluster.placement import Job, Placement, Say, place
from cluster.worker_log import add_logs
from configs.schema import Config

# Settings of a local head. Ray would start idle workers ahead, which no actor of a run can take:
# each has an environment of its own.
LOCAL_HEAD = {"prestart_worker_first_driver": False}

# Ray gives its own head 30 s, which a busy machine may exceed; the error has no class of its own.
HEAD_ATTEMPTS = 3
HEAD_TIMED_OUT = "timed out during startup"


@contextmanager
def joined(
    cfg: Config,
    job: Job = "train",
    while_joining: AbstractContextManager[Any] | None = None,
    say: Say = print,
) -> Iterator[Placement]:
    """Join the cluster as `join` does, and leave it at the end.

    An error in between gets the ends of the logs of the processes that it names. A connection
    from before stays open.

    Args:
        job: the job; it decides which actors need room.
        while_joining: a context around the joining, to show progress.
        say: told once what the job waits for, if it has to.
    """
    connected_before = ray.is_initialized()
    placement: Placement | None = None
    try:
        with while_joining or nullcontext(), _own_sigterm():
            placement = join(cfg, job, say)
        yield placement
    except Exception as error:
        # While Ray runs: its folder is known by it.
        add_logs(error)
        raise
    finally:
        if placement is not None:
            placement.release()
        if not connected_before:
            ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray sets one that aborts without closing anything."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


def join(cfg: Config, job: Job = "train", say: Say = print) -> Placement:
    """Connect to Ray and return the placement of the run's actors.

    The cluster is the job's own (`ray job submit`), `cluster.address`, or a new local head.

    Raises:
        ValueError: the job asks for more GPUs than the cluster has, or may get in time; or
            cluster.metrics_port is in use.
    """
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        # Ray sets RAY_ADDRESS inside a job.
        inside_job = bool(os.environ.get("RAY_ADDRESS"))
        if cfg.cluster.address:
            options["address"] = cfg.cluster.address
        elif not inside_job:
            # Without an address Ray would join any head that happens to run on this machine.
            options["address"] = "local"
            options["num_cpus"] = max(8, os.cpu_count() or 1)
            options["include_dashboard"] = False
            options["_system_config"] = LOCAL_HEAD
            if cfg.cluster.metrics_port:
                check_free(cfg.cluster.metrics_port)
                options["_metrics_export_port"] = cfg.cluster.metrics_port
        _init(options, say)
    return place(cfg, job, say)


def check_free(port: int) -> None:
    """Refuse a port that another program has: Ray itself would only leave the figures out.

    Raises:
        ValueError: the port cannot be used.
    """
    with socket.socket() as probe:
        # As a server does; a port that was used a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"cluster.metrics_port={port} cannot be used ({error}): give another port, or 0"
            ) from error


def _init(options: Mapping[str, Any], say: Say) -> None:
    """Connect to Ray; start a local head again if it was too slow."""
    for attempt in range(1, HEAD_ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if HEAD_TIMED_OUT not in str(error) or attempt == HEAD_ATTEMPTS:
                raise
            say(f"Ray did not start in time (is this machine busy?): attempt {attempt + 1}")
            ray.shutdown()
