"""Rollout actors: one vLLM engine each, playing whole groups of episodes; and their pool on the driver.

The pool hands groups to whoever is free and keeps a few more in flight than an engine decodes at once. An actor that
dies is started again with the current weights, and its groups are played again: seeds come from what a turn is, not
from who plays it, so a run repeats. Ground truth is taken out of a sample before it is sent: who plays sees no more of
it than the hint that a system may give in training.
"""

from __future__ import annotations

import asyncio
import math
import os
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from actors import gpu_weights
from actors.setup import make_system
from cluster.placement import Placement
from cluster.weights import WeightVersion
from configs.schema import Config
from core.types import End, Episode, MediaTable, Sample
from data.frames.reading import show_views
from models.engine.conversation import Key
from models.engine.engine import Engine
from models.engine.gallery import Gallery
from models.engine.settings import EngineSettings
from models.engine.weight_transfer import BACKEND

BATCHES = 3  # in flight: the last episodes of a group must not decode beside empty places, nor wait for its frames
MAX_ATTEMPTS = 3  # at playing a group, each ended by the death of an actor


class RolloutActor:
    """Plays groups of one system with one engine; several groups at a time (an asynchronous Ray actor)."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        cfg: Config,
        settings: EngineSettings,
        weights: WeightVersion | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(1)
        self.system = make_system(cfg)
        self.engine = Engine(settings)
        self.top_p = cfg.rollout.top_p
        if weights is not None:  # joined late
            await self.take(weights)

    async def play_group(
        self, sample: Sample, group_size: int, temperature: float, key: Key
    ) -> tuple[tuple[Episode, ...], MediaTable]:
        """G episodes of one sample, and the pixels they were shown.

        Args:
            key: run seed, step and sample: with the number of the episode and the turn it seeds the sampling.
        """
        gallery = Gallery(sample.video, show_views)
        episodes = await asyncio.gather(
            *(self._play(sample, gallery, temperature, (*key, g)) for g in range(group_size))
        )
        return tuple(episodes), gallery.pixels

    async def _play(
        self, sample: Sample, gallery: Gallery, temperature: float, key: Key
    ) -> Episode:
        """One episode. The one place where an error becomes a FAILED episode, which is never rewarded."""
        ask = self.engine.ask(gallery, key, temperature=temperature, top_p=self.top_p)
        try:
            return await self.system.play(sample, ask)
        except Exception:
            if self.engine.dead:
                os._exit(
                    1
                )  # no episode's fault: die, so that the pool starts another actor and plays the group again
            return Episode(sample.uid, (), End.FAILED, error=traceback.format_exc())

    async def take(self, weights: WeightVersion) -> int:
        """Pulls a version of the weights; returns its number. Errors as `Engine.take`."""
        if weights.senders:  # ipc
            payload: Any = gpu_weights.messages(weights.senders[0])
        else:
            payload = None if weights.payload is None else await weights.payload
        await self.engine.take(
            weights.version,
            weights.names,
            weights.dtypes,
            weights.shapes,
            weights.checksum,
            payload,
        )
        return self.engine.version

    async def init_transfer(self, info: dict[str, Any]) -> None:
        """Handshake of the nccl and ipc backends."""
        await self.engine.init_transfer(info)

    async def version(self) -> int:
        """Of the weights it plays with. Also says that it is up."""
        return self.engine.version


@dataclass(frozen=True)
class Played:
    """A finished group, unscored."""

    index: int  # of the sample in what `play` was given
    sample: Sample
    episodes: tuple[Episode, ...]
    media_ref: Any  # ObjectRef of the group's MediaTable


@dataclass(frozen=True)
class Flight:
    """A group that is being played."""

    index: int
    attempt: int
    worker: int
    media_ref: Any


def engine_settings(cfg: Config, device: str) -> EngineSettings:
    rollout = cfg.rollout
    path = cfg.policy.path
    return EngineSettings(
        path=os.path.abspath(path)
        if os.path.isdir(path)
        else path,  # a folder, or a name on a model hub
        device=device,
        dtype=cfg.policy.dtype,
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        kv_cache_bytes=rollout.kv_cache_bytes,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_parallel,
        weight_backend=cfg.cluster.weight_backend,
        seed=cfg.seed,
    )


class RolloutPool:
    """Driver side: starts the actors (they come up while the caller goes on) and plays samples with them."""

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        self.placement = placement
        self.settings = engine_settings(cfg, placement.device)
        self.system = make_system(cfg)  # for what it shows in training
        self.weights: WeightVersion | None = None
        self.workers: dict[int, Any] = {}  # a number is never used twice
        self.deaths = 0
        self._started = 0
        self._connected = False  # to the learner, with a GPU backend
        self.scale(cfg.rollout.workers)

    def _start(self) -> None:
        if self._started >= self.cfg.rollout.workers:
            self._check_elastic()
        actor = ray.remote(RolloutActor).options(**self.placement.options("rollout", self._started))
        self.workers[self._started] = actor.remote(self.cfg, self.settings, self.weights)
        self._started += 1

    def _check_elastic(self) -> None:
        backend = self.settings.weight_backend
        if backend != BACKEND:
            raise RuntimeError(
                f"rollout actors cannot join or leave a running cluster.weight_backend={backend}: who gets weights is "
                "fixed at its start; start again from the last checkpoint, or use object_store"
            )

    def _replace(self, worker: int) -> None:
        """Starts another actor in the place of a lost one, once, however often its loss is noticed."""
        if worker in self.workers:
            self.deaths += 1
            ray.kill(self.workers.pop(worker))
            self._start()

    def ready(self) -> None:
        """Waits until all actors are up. Raises what keeps one from starting."""
        ray.get([actor.version.remote() for actor in self.workers.values()])

    def scale(self, workers: int) -> None:
        """To this many actors, at any time; groups of an actor that goes are played again by the others."""
        if workers < 1:
            raise ValueError(f"rollout.workers={workers}: at least 1 is needed")
        while len(self.workers) < workers:
            self._start()
        if len(self.workers) > workers:
            self._check_elastic()
        for worker in list(self.workers)[workers:]:
            ray.kill(self.workers.pop(worker))

    def take(self, weights: WeightVersion) -> None:
        """Gives all actors a version of the weights, and waits; those who join later get it when they start."""
        self.weights = weights
        going = self._transfer(weights)
        while going:  # the first error ends it: with a GPU backend the others may be waiting for whoever failed
            done, _ = ray.wait(list(going), num_returns=1)
            worker = going.pop(done[0])
            try:
                ray.get(done[0])
            except ray.exceptions.RayActorError:
                if worker is None:  # a rank of the learner
                    raise
                self._replace(worker)

    def _transfer(self, weights: WeightVersion) -> dict[Any, int | None]:
        """Starts it. Returns what has to end well, and whose it is (None: the learner's)."""
        backend = self.settings.weight_backend
        if backend == BACKEND:
            return {actor.take.remote(weights): worker for worker, actor in self.workers.items()}
        if not self._connected:
            gpu_weights.connect(
                backend, weights.senders, self.workers, self.settings.tensor_parallel
            )
            self._connected = True
        return gpu_weights.send(backend, weights, self.workers)

    def play(
        self,
        samples: Sequence[Sample],
        *,
        group_size: int,
        temperature: float,
        step: int,
        training: bool = False,
    ) -> Iterator[Played]:
        """Plays a group of each sample; yields groups as they finish, in any order.

        Args:
            step: with the run's seed and the sample it seeds all that is drawn.
            training: show the samples as `System.shown` does, not bare.

        Raises:
            ValueError: a temperature that vLLM does not sample at.
            RuntimeError: a group lost its actor MAX_ATTEMPTS times.
        """
        if not 0 <= temperature <= 2:
            raise ValueError(
                f"rollout.temperature={temperature}: must lie between 0 (greedy) and 2"
            )
        waiting = deque((index, 1) for index in range(len(samples)))
        flying: dict[Any, Flight] = {}
        while waiting or flying:
            while waiting and (worker := self._free(flying, group_size)) is not None:
                index, attempt = waiting.popleft()
                shown = self._shown(samples[index], step) if training else samples[index].bare
                ref, media_ref = self._send(worker, shown, group_size, temperature, step)
                flying[ref] = Flight(index, attempt, worker, media_ref)
            done, _ = ray.wait(list(flying), num_returns=1)
            flight = flying.pop(done[0])
            try:
                episodes = ray.get(done[0])
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                self._replace(flight.worker)
                if flight.attempt == MAX_ATTEMPTS:
                    uid = samples[flight.index].uid
                    raise RuntimeError(
                        f"sample {uid!r}: {MAX_ATTEMPTS} rollout actors died playing it"
                    ) from error
                waiting.appendleft((flight.index, flight.attempt + 1))
            else:
                yield Played(flight.index, samples[flight.index], episodes, flight.media_ref)

    def _free(self, flying: Mapping[Any, Flight], group_size: int) -> int | None:
        """The actor with the fewest groups, unless all have enough to fill their engine's batch BATCHES times."""
        load = Counter(flight.worker for flight in flying.values())
        worker = min(self.workers, key=lambda w: load[w])
        return (
            worker
            if load[worker] < BATCHES * math.ceil(self.settings.max_num_seqs / group_size)
            else None
        )

    def _shown(self, sample: Sample, step: int) -> Sample:
        """What the whole group sees of the sample in this training step; the same whenever it is asked for."""
        shown = self.system.shown(
            sample, np.random.default_rng([self.cfg.seed, step, *sample.uid.encode()])
        )
        assert not shown.targets, f"{self.system.name} shows the ground truth of {sample.uid!r}"
        return shown

    def _send(
        self, worker: int, shown: Sample, group_size: int, temperature: float, step: int
    ) -> list[Any]:
        """References to the episodes, which are small, and to their pixels, which go on to the learner unread."""
        key = (self.cfg.seed, step, shown.uid)
        play = self.workers[worker].play_group.options(num_returns=2)
        return play.remote(shown, group_size, temperature, key)

    def close(self) -> None:
        for actor in self.workers.values():
            ray.kill(actor)
        self.workers.clear()
