"""Rollout actors, with one vLLM engine each, and their pool. They play whole groups.

The pool keeps every engine filled. A dead actor is replaced by one with the current weights, and
its groups are played again. Seeds come from the run, step, sample and turn, so the tokens are the
same on any actor. Ground truth is taken out of a sample before it is sent.
"""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray

from actors import gpu_weights
from actors.pool import Pool
from actors.reward import as_scored
from actors.setup import make_system, system_message
from cluster.beat import patient
from cluster.lost import cause
from cluster.metrics import vllm_figures
from cluster.placement import Placement
from cluster.refs import Handle, Ref, start_actor
from cluster.room import room
from cluster.weight_reader import WeightReader
from cluster.weights import WeightVersion
from configs.load import resolve
from configs.schema import Config
from core.batch import share_prompt
from core.episode_json import pack_episodes
from core.pulse import working
from core.shared_file import Held, Place
from core.types import DialogueTooLong, End, Episode, Sample
from data.frames.reading import show_views
from models.engine.conversation import SeedKey
from models.engine.engine import Engine, killed_while_starting
from models.engine.gallery import Gallery
from models.engine.settings import OBJECT_STORE, AdapterSettings, EngineSettings
from models.families import family_of

# Batches that an engine is given at a time, so that slots freed by short episodes, and the time
# in which frames are decoded, never leave it idle.
BATCHES = 3
# Seconds between two looks at the engine's process.
ENGINE_S = 0.5
# Bytes a second that any machine loads.
SLOW_BYTES = 100e6


class RolloutActor:
    """One engine and one system, for several groups at a time (an asynchronous Ray actor)."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        cfg: Config,
        settings: EngineSettings,
        weights: WeightVersion | None = None,
    ) -> None:
        """Start the engine.

        Args:
            weights: the current version, for an actor in a run under way.
        """
        import torch

        torch.set_num_threads(1)
        self.system = make_system(cfg)
        figures = vllm_figures() if cfg.cluster.metrics_port else []
        try:
            self.engine = Engine(settings, figures)
        except (RuntimeError, BrokenPipeError) as error:
            if killed_while_starting(error):
                # A loss like any other, not an error of the settings.
                os._exit(1)
            raise
        self._ending = asyncio.create_task(self._end_with_engine())
        self.top_p = cfg.rollout.top_p
        self.reader = WeightReader()
        if weights is not None:
            await self.take(weights)

    async def _end_with_engine(self) -> None:
        """End this process once the engine's is gone, at work or idle: it is of no use then.

        The pool starts another actor, and that plays unfinished groups again.
        """
        while True:
            await asyncio.sleep(ENGINE_S)
            self._end_if_engine_is_dead()

    def _end_if_engine_is_dead(self) -> None:
        if self.engine.dead:
            os._exit(1)

    async def play_group(
        self,
        sample: Sample,
        group_size: int,
        temperature: float,
        key: SeedKey,
        logged: bool = False,
    ) -> GroupPlay:
        """Play the G episodes of one sample.

        Their images stay here: whoever needs them reads the frames again out of the store of its
        node (`data.frames.shown`).

        Args:
            key: run seed, step and sample. Together with the numbers of episode and turn it seeds
                the sampling.
            logged: whether they shall go into the log of the run's groups.
        """
        gallery = Gallery(sample.video, show_views)
        playing = []
        for number in range(group_size):
            playing.append(self._play(sample, gallery, temperature, (*key, number)))
        return group_play(await asyncio.gather(*playing), logged)

    async def _play(
        self, sample: Sample, gallery: Gallery, temperature: float, key: SeedKey
    ) -> Episode:
        began = time.monotonic()
        episode = await self._played(sample, gallery, temperature, key)
        return replace(episode, seconds=time.monotonic() - began)

    async def _played(
        self, sample: Sample, gallery: Gallery, temperature: float, key: SeedKey
    ) -> Episode:
        """Play one episode.

        An error becomes a FAILED episode here and nowhere else. It is never rewarded.
        """
        ask = self.engine.ask(gallery, key, temperature=temperature, top_p=self.top_p)
        try:
            return await self.system.play(sample, ask)
        except DialogueTooLong as error:
            return Episode(sample.uid, (), End.FAILED, error=str(error), too_long=True)
        except Exception:
            # That would not be the fault of this episode.
            self._end_if_engine_is_dead()
            return Episode(sample.uid, (), End.FAILED, error=traceback.format_exc())

    async def take(self, weights: WeightVersion) -> int:
        """Load a version of the weights, unless it is gone; return the number of the loaded one.

        Raises the errors of `Engine.take` and `WeightReader.open`.
        """
        with working("take", loading_seconds(weights)):
            try:
                await self._take(weights)
            except Exception:
                self._end_if_engine_is_dead()
                raise
        return self.engine.version

    async def _take(self, weights: WeightVersion) -> None:
        source: str | AsyncIterator[dict[str, Any]] | None = None
        held: Held | None = None
        if weights.senders:
            # ipc: the rank on this GPU hands out one buffer after another.
            source = gpu_weights.messages(weights.senders[0])
        elif self.engine.settings.weight_backend == OBJECT_STORE:
            held = await asyncio.to_thread(self.reader.open, weights)
            if held is None:
                # The pool sees the number and brings the newest.
                return
            source = held.place.path
        try:
            await self.engine.take(
                weights.version,
                weights.names,
                weights.dtypes,
                weights.shapes,
                weights.checksums,
                source,
            )
        except ValueError:
            self.reader.forget()
            raise
        finally:
            if held is not None:
                held.close()

    @patient
    async def init_transfer(self, info: dict[str, Any]) -> None:
        """Do the handshake of the nccl and ipc backends."""
        await self.engine.init_transfer(info)

    async def version(self) -> int:
        """Return the version of the weights it plays with; answers once the engine is up."""
        return self.engine.version


def loading_seconds(weights: WeightVersion) -> float:
    """Return how long an engine may take to load a version without a sign of progress."""
    elements = sum(math.prod(shape) for shape in weights.shapes)
    return 4 * elements / SLOW_BYTES


@dataclass(frozen=True)
class GroupPlay:
    """The episodes of a group on their way to the driver.

    Attributes:
        scored: what reward actors want of them (`actors.reward.as_scored`), pickled: the driver
            passes it on.
        encoded: uint8, their JSON, packed, for the log of the run's groups (`core.episode_json`);
            the driver reads it where the object store has it. None if they are not logged.
    """

    episodes: tuple[Episode, ...]
    scored: bytes
    encoded: np.ndarray | None


def group_play(episodes: Sequence[Episode], logged: bool) -> GroupPlay:
    """Return played episodes as the driver wants them."""
    encoded = None
    if logged:
        encoded = np.frombuffer(pack_episodes(episodes), dtype=np.uint8)
    return GroupPlay(share_prompt(episodes), pickle.dumps(as_scored(episodes), protocol=5), encoded)


@dataclass(frozen=True)
class Played:
    """A finished group, not scored yet.

    Attributes:
        index: position of the sample among those of `RolloutPool.tasks`.
        sample: the sample with its ground truth.
        step: the step that it was played for.
        is_logged: whether it was played before a death, and comes from the run's group log.
        scored: as `GroupPlay.scored`; None if it is not there, as in a group of the log.
        encoded: as `GroupPlay.encoded`.
    """

    index: int
    sample: Sample
    episodes: tuple[Episode, ...]
    step: int = 0
    is_logged: bool = False
    scored: bytes | None = field(default=None, compare=False, repr=False)
    encoded: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def too_long(self) -> bool:
        """Whether the sample has no room for an answer in any episode."""
        return all(episode.too_long for episode in self.episodes)


@dataclass
class GroupTask:
    """A group to be played.

    Attributes:
        whole: the sample with its ground truth; it stays on the driver.
        shown: the sample as the policy may see it, without ground truth.
        logged: whether its episodes go into the log of the run's groups.
    """

    step: int
    index: int
    whole: Sample
    shown: Sample
    group_size: int
    temperature: float
    key: SeedKey
    logged: bool


def copies(samples: Sequence[Sample]) -> list[int]:
    """Return how often each sample occurs among those before it.

    Copies of a sample in one step need seeds of their own, or they play the same episodes.
    """
    seen: Counter[str] = Counter()
    numbers = []
    for sample in samples:
        numbers.append(seen[sample.uid])
        seen[sample.uid] += 1
    return numbers


def engine_settings(cfg: Config, device: str, learns: bool = False) -> EngineSettings:
    """Return the settings of a rollout actor's engine.

    Args:
        learns: whether it will take weights of a learner.

    Raises:
        ValueError: as `adapter_settings`.
    """
    rollout = cfg.rollout
    path = cfg.policy.path
    # Otherwise it is a name on a model hub.
    if os.path.isdir(path):
        path = os.path.abspath(path)
    adapter: AdapterSettings | None = None
    if learns and cfg.learner.lora_publish == "adapter":
        adapter = adapter_settings(cfg)
    return EngineSettings(
        path=path,
        device=device,
        dtype=cfg.policy.dtype,
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        kv_cache_bytes=rollout.kv_cache_bytes,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_parallel,
        weight_backend=cfg.cluster.weight_backend,
        adapter=adapter,
        seed=cfg.seed,
        system_message=system_message(cfg),
    )


def adapter_settings(cfg: Config) -> AdapterSettings:
    """Return the adapter that the learner sends alone.

    Raises:
        ValueError: a target that the policy's layers do not have.
    """
    learner = cfg.learner
    known = family_of(resolve(cfg.policy.path)).lora_targets
    targets = tuple(learner.lora_targets) or known
    if not set(targets) <= set(known):
        raise ValueError(f"learner.lora_targets={list(targets)}: some of {', '.join(known)}")
    return AdapterSettings(learner.lora_rank, learner.lora_alpha, targets)


class RolloutPool(Pool[RolloutActor, GroupTask, GroupPlay]):
    """All rollout actors. They come up while the caller goes on."""

    kind = "rollout"

    def __init__(self, cfg: Config, placement: Placement, learns: bool = False) -> None:
        """Start the actors. Arguments and errors are those of `engine_settings`."""
        self.cfg = cfg
        self.placement = placement
        self.settings = engine_settings(cfg, placement.device, learns)
        self.system = make_system(cfg)
        # The newest version. Actors that join later load it when they start.
        self.weights: WeightVersion | None = None
        # Of each actor that joined: the place of the last version it was brought.
        self._brought: dict[int, Place | None] = {}
        # Whether the engines have joined the learner's process group (GPU backends).
        self._connected = False
        workers = placement.count("rollout", cfg.rollout.first_workers)
        super().__init__(workers, watch=placement.watch)

    def start(self, number: int) -> Handle[RolloutActor]:
        if number >= self.cfg.rollout.first_workers:
            self.check_elastic()
        options = self.placement.options("rollout", self.seats[number])
        return start_actor(RolloutActor, options, self.cfg, self.settings, self._newest())

    def send(self, worker: Handle[RolloutActor], task: GroupTask) -> Ref[GroupPlay]:
        return worker.call_packed(
            RolloutActor.play_group,
            task.shown,
            task.group_size,
            task.temperature,
            task.key,
            task.logged,
        )

    def give_up(self, task: GroupTask, error: Exception) -> GroupPlay:
        raise RuntimeError(
            f"sample {task.whole.uid!r}: {self.attempts} rollout actors died playing it; "
            f"the last one: {cause(error)}"
        ) from error

    @property
    def version(self) -> int:
        """Number of the newest version that the actors were given; 0 is the initial policy."""
        return 0 if self.weights is None else self.weights.version

    def joins(self, number: int, answer: int | None = None) -> Ref[int] | None:
        """Wait for the engine, then bring it to the newest weights."""
        worker = self.workers[number]
        if answer is None:
            return worker.call(RolloutActor.version)
        newest = self._newest()
        if newest is None or answer == newest.version:
            return None
        # It was shown these very bytes and did not find them.
        if newest.place is not None and self._brought.get(number) == newest.place:
            raise ValueError(
                f"rollout actor {number} cannot see the driver's shared memory on its machine; "
                "set cluster.weight_path=full"
            )
        self._brought[number] = newest.place
        return worker.call(RolloutActor.take, newest)

    def _newest(self) -> WeightVersion | None:
        """Return the newest version in the reach of an actor on any node."""
        if self.weights is not None:
            self.weights = self.weights.for_all_machines()
        return self.weights

    def has_room(self) -> bool:
        """Return whether an engine may start now: it has a reserved seat, or the cluster room."""
        need = self.placement.engine_need
        if not need or self.free_seat() < self.cfg.rollout.first_workers:
            return True
        return room(need) > 0

    def scale(self, workers: int) -> None:
        """Change the number of actors at any time. The rest play the groups of those killed.

        Raises:
            ValueError: fewer than one actor.
            RuntimeError: a GPU weight backend. Its actors are fixed.
        """
        if workers < 1:
            raise ValueError(f"rollout.workers={workers}: at least 1 is needed")
        if workers < len(self.workers):
            self.check_elastic()
        super().scale(workers)

    def check_elastic(self) -> None:
        """Refuse another number of actors with a GPU weight backend. Raises RuntimeError."""
        backend = self.settings.weight_backend
        if backend != OBJECT_STORE:
            raise RuntimeError(
                "rollout actors cannot join or leave a running "
                f"cluster.weight_backend={backend}: the receivers are fixed at its start; "
                "start again from the last checkpoint, or use object_store"
            )

    def take(self, weights: WeightVersion) -> None:
        """Give a version of the weights to all actors at work; wait until they have it.

        Those that still start, and those that rest because a step has fewer groups than there are
        actors, take it before they get a group.
        """
        self.settle()
        if self.settings.weight_backend == OBJECT_STORE:
            self.rest()
        with self._lock:
            self.weights = weights.for_all_machines()
            transfers = self._transfer(self.weights)
        self.wait_for_all(transfers)

    def _transfer(self, weights: WeightVersion) -> dict[Ref[Any], int | None]:
        """Start a transfer; return its calls, each with its actor (None: a learner rank)."""
        backend = self.settings.weight_backend
        if backend == OBJECT_STORE:
            calls: dict[Ref[Any], int | None] = {}
            # Names and checksums of hundreds of tensors are packed once, not for each actor.
            stored: Any = ray.put(weights)
            for number in self.awake():
                calls[self.workers[number].call(RolloutActor.take, stored)] = number
            return calls
        self.ready()
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
        """Play a group of each sample; yield groups as they finish, in any order.

        Args and errors are those of `tasks` and `play_tasks`.
        """
        tasks = self.tasks(
            samples, group_size=group_size, temperature=temperature, step=step, training=training
        )
        return self.play_tasks(tasks, group_size)

    def tasks(
        self,
        samples: Sequence[Sample],
        *,
        group_size: int,
        temperature: float,
        step: int,
        training: bool = False,
        skip: Collection[int] = (),
    ) -> Iterator[GroupTask]:
        """Yield a task for a group of each sample.

        Args:
            step: seeds the sampling, together with the run's seed and the sample.
            training: show samples as `System.shown` does, with hints, and encode the episodes for
                the log. Otherwise bare.
            skip: indices of samples whose groups are there already.

        Raises:
            ValueError: a temperature out of vLLM's range.
        """
        if not 0 <= temperature <= 2:
            raise ValueError(
                f"rollout.temperature={temperature}: must lie between 0 (greedy) and 2"
            )
        for index, (sample, copy) in enumerate(zip(samples, copies(samples), strict=True)):
            if index in skip:
                continue
            shown = self._shown(sample, step) if training else sample.bare
            key: SeedKey = (self.cfg.seed, step, sample.uid)
            if copy:
                key = (*key, "copy", copy)
            yield GroupTask(step, index, sample, shown, group_size, temperature, key, training)

    def play_tasks(self, tasks: Iterable[GroupTask | None], group_size: int) -> Iterator[Played]:
        """Play groups; yield them as they finish, in any order.

        Args:
            tasks: as `Pool.run` takes them.
            group_size: episodes of a group.

        Raises:
            RuntimeError: a group lost its actor MAX_ATTEMPTS times.
        """
        groups_a_batch = math.ceil(self.settings.max_num_seqs / group_size)
        in_flight = BATCHES * groups_a_batch
        for task, play in self.run(tasks, in_flight, batch=groups_a_batch):
            yield Played(
                task.index,
                task.whole,
                play.episodes,
                task.step,
                scored=play.scored,
                encoded=play.encoded,
            )

    def _shown(self, sample: Sample, step: int) -> Sample:
        """Return the sample as its whole group sees it in this training step, always the same."""
        rng = np.random.default_rng([self.cfg.seed, step, *sample.uid.encode()])
        shown = self.system.shown(sample, rng)
        assert not shown.targets, f"{self.system.name} shows the ground truth of {sample.uid!r}"
        return shown
