"""The number of rollout engines while a job runs: what is wanted, as far as the cluster has room.

`rollout.workers=auto` wants `rollout.max_workers`; `ray_jobs.control NAME workers=6` wants 6. A
thread looks every few seconds whether an engine is missing and whether a node has room for it, such
as one that has just joined. Engines beyond the first ones wait for no node: they start when there
is room, and go with their node.
"""

from __future__ import annotations

import threading

import ray

from actors.rollout import RolloutPool
from cluster.placement import Placement
from cluster.room import ask_autoscaler, room, withdraw
from configs.schema import Config
from ray_jobs.record.progress import Progress

# Seconds between two looks at the cluster.
WATCH_S = 2.0
# Most engines of a job: more are a slip of the keyboard.
MOST = 1024


class Elastic:
    """Keeps the engines of a pool at the number that is wanted."""

    def __init__(self, cfg: Config, placement: Placement, progress: Progress) -> None:
        self._cfg = cfg
        self._placement = placement
        self._progress = progress
        self._pool: RolloutPool | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._has_asked = False
        self.wanted = cfg.rollout.first_workers
        if cfg.rollout.workers == "auto":
            self.wanted = cfg.rollout.max_workers or MOST

    def keep(self, pool: RolloutPool) -> None:
        """Begin with a pool that has its first engines."""
        self._pool = pool
        if self.wanted != self._cfg.rollout.first_workers:
            self._begin()

    def want(self, workers: int) -> str:
        """Change the number of engines; return in words what happens.

        Raises:
            ValueError: an impossible number, or a job whose engines are fixed.
        """
        if not 1 <= workers <= MOST:
            raise ValueError(f"workers={workers}: must be at least 1 and at most {MOST}")
        self._check_cores(workers)
        backend = self._cfg.cluster.weight_backend
        if backend != "object_store":
            raise ValueError(
                f"workers={workers}: with cluster.weight_backend={backend} the number is fixed; "
                "start again from the last checkpoint, or use object_store"
            )
        if self._pool is None:
            self.wanted = workers
            return f"workers={workers}: they start with the job, once its first engines are up"
        before = len(self._pool.workers)
        self.wanted = workers
        self.adjust()
        self._begin()
        now = len(self._pool.workers)
        said = f"workers: {before} -> {workers}; "
        if workers < before:
            return f"{said}{before - workers} end now, the others play their groups again"
        if now < workers:
            later = workers - now
            said += f"{later} wait for room on the cluster; "
        return f"{said}{now - before} start now and get groups when they are up"

    def adjust(self) -> None:
        """Start or end engines, as far as there is room."""
        pool = self._pool
        assert pool is not None, "`keep` comes first"
        pool.settle()
        running = len(pool.workers)
        if running > self.wanted:
            pool.scale(self.wanted)
            return
        more = self.wanted - running
        need = self._placement.engine_need
        if need and more > 0:
            # Those that start now have not taken their room yet.
            if len(pool.up()) < running:
                return
            more = min(more, room(need))
        if more > 0:
            self._progress.note(f"rollout engines: {running} -> {running + more}")
            pool.scale(running + more)

    def status(self) -> str:
        """Return the number of engines in words."""
        if self._pool is None:
            return "rollout engines: not started yet"
        up = len(self._pool.up())
        starting = len(self._pool.workers) - up
        wanted = "as many as there is room for" if self.wanted == MOST else str(self.wanted)
        return f"rollout engines: {up} up, {starting} starting, {wanted} wanted"

    def close(self) -> None:
        """Let the pool alone, and withdraw the request to the autoscaler."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._has_asked and ray.is_initialized():
            withdraw()

    def _begin(self) -> None:
        """Ask the autoscaler for room, and start to watch."""
        need = self._placement.engine_need
        if need and self.wanted < MOST and self._cfg.cluster.autoscaler != "no":
            bundles = [
                {"GPU": each.gpus, "CPU": each.cpus} for each in self._placement.plan.bundles
            ]
            first = self._placement.plan.count("rollout")
            ask_autoscaler(bundles + [need] * (self.wanted - first))
            self._has_asked = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="elastic", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            try:
                self.adjust()
            except Exception as error:
                # An engine that cannot start on a new node must not end a run that goes well.
                self._progress.note(f"rollout engines: no more are started: {error}")
                return

    def _check_cores(self, workers: int) -> None:
        """Refuse more engines than CPU cores, where they take turns."""
        if self._placement.engine_need:
            return
        cores = int(ray.cluster_resources().get("CPU", 1))
        if workers > cores:
            raise ValueError(
                f"workers={workers}: the cluster has {cores} CPU cores; give at most {cores}"
            )
