"""What the processes of a job do now: in `live.json` for the live page, and for Prometheus.

A thread beside the job writes what the watch over the actors knows anyway, a few times a minute. It
asks nobody, so no step waits for it. If it cannot write, one line says so, and the job goes on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.metrics import Figures, addresses, shown
from cluster.usage import Usage, usage
from cluster.watch import Seen, Watch
from configs.schema import Config
from core.files import write_json
from ray_jobs.record.live_data import FILE
from ray_jobs.record.progress import Progress

# Seconds between two documents.
EVERY_S = 10.0
DRIVER = "driver"


@contextmanager
def told_live(folder: Path, progress: Progress, watch: Watch) -> Iterator[None]:
    """Write what a job does while the block runs; at its end the file goes."""
    file = folder / FILE
    ended = threading.Event()
    arguments = (file, progress, watch, ended)
    writing = threading.Thread(target=_write_on, args=arguments, name="live", daemon=True)
    writing.start()
    try:
        yield
    finally:
        ended.set()
        writing.join()
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _write_on(file: Path, progress: Progress, watch: Watch, ended: threading.Event) -> None:
    has_failed = False
    while True:
        try:
            write_json(file, document(progress, watch))
        except OSError as error:
            if not has_failed:
                progress.note(f"the live page lacks what the actors do: {error}")
            has_failed = True
        if ended.wait(EVERY_S):
            return


def document(progress: Progress, watch: Watch) -> dict[str, Any]:
    """Return what all processes of a job do."""
    phases = progress.doing()
    driver = Seen(DRIVER, DRIVER, "; ".join(phases) or "between two phases", 0.0, usage())
    processes = [_line(each) for each in (driver, *watch.seen())]
    return {"pid": os.getpid(), "written": time.time(), "processes": processes}


def _line(process: Seen) -> dict[str, Any]:
    line: dict[str, Any] = {
        "name": process.name,
        "doing": process.doing,
        "seconds": process.seconds,
    }
    if process.usage is not None:
        line |= vars(process.usage)
    return line


@contextmanager
def figures_shown(cfg: Config, progress: Progress) -> Iterator[Figures | None]:
    """Yield the figures of a run for Prometheus, and say where they are; None without any."""
    if not cfg.cluster.metrics_port:
        yield None
        return
    progress.note(f"figures for Prometheus: {', '.join(addresses())} (path /metrics)")
    with shown({"run": cfg.name, "system": cfg.system.name}) as figures:
        yield figures


def memory_metrics(watch: Watch) -> dict[str, float]:
    """Return the memory of the largest process of each kind as metrics of a step, in GiB."""
    metrics: dict[str, float] = {}
    for kind, found in _usages(watch):
        measured = {"memory": found.memory_gib, "gpu_memory": found.gpu_gib}
        for name, gib in measured.items():
            if gib is not None:
                metric = f"{name}/{kind}"
                metrics[metric] = max(gib, metrics.get(metric, 0.0))
    return metrics


def _usages(watch: Watch) -> Iterator[tuple[str, Usage]]:
    yield DRIVER, usage()
    for each in watch.seen():
        if each.usage is not None:
            yield each.kind, each.usage
