"""The actors of a job, their shares of GPUs, and whether nodes have room for them.

    cfg = load(["revseg_7b"])
    plan = plan_of(cfg, "train", [Node(gpus=8, cpus=96)])
    print(plan)     # 3 engines x 1 GPU + 4 learner ranks x 1 GPU + ...

Pure arithmetic without Ray; `cluster.placement` reserves a plan in the joined cluster. A share
cannot span GPUs and a bundle cannot span nodes, so 8.5 GPUs are 9, and 4 engines, 4 learner ranks
and a segmenter never fit on 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from configs.schema import Config

Device = Literal["cpu", "cuda"]
Kind = Literal["rollout", "learner", "reward", "segmenter", "drawer", "judge"]
Job = Literal["train", "warm_start", "evaluate", "segment", "prepare", "rate_difficulty"]

# Share of a GPU of an actor without a GPU of its own: reward, segmenter, drawer.
SHARED_GPU = 0.1
# Shares of an engine that lends the rest of its GPU: more than half, so two never meet on one GPU.
LENDING_ENGINE = 0.6
# The same of engine and learner rank together, with cluster.weight_backend=ipc.
LENDING_PAIR = 0.4
# Ray counts in ten-thousandths of a GPU.
GRAIN = 10_000

WORDS: dict[Kind, str] = {
    "rollout": "engine",
    "learner": "learner rank",
    "reward": "reward actor",
    "segmenter": "segmenter actor",
    "drawer": "drawer",
    "judge": "judge of the label filter",
}


@dataclass(frozen=True)
class Node:
    """The resources of one machine."""

    gpus: float
    cpus: float = math.inf


@dataclass(frozen=True)
class Seat:
    """The place of one actor: what Ray reserves for it inside its bundle."""

    kind: Kind
    number: int
    gpus: float
    cpus: float = 1.0


@dataclass(frozen=True)
class Bundle:
    """Resources of one node that are reserved together.

    Attributes:
        gpus: GPUs; a part of one, or whole ones.
        cpus: CPU cores.
        seats: its actors. They share the bundle, or take turns in it.
    """

    gpus: float
    cpus: float
    seats: tuple[Seat, ...]


@dataclass(frozen=True)
class Spot:
    """Where a bundle fits: the node and its GPUs, by number."""

    node: int
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The actors of a job that are alive together, in bundles.

    Attributes:
        job: the job.
        bundles: in the order of their seats' start.
        beside: number of the last bundles that are for an evaluation beside training. Seats are
            those of the others.
    """

    job: Job
    bundles: tuple[Bundle, ...] = ()
    beside: int = 0

    @property
    def own(self) -> tuple[Bundle, ...]:
        """The bundles of the job itself."""
        return self.bundles[: len(self.bundles) - self.beside]

    @property
    def evaluation(self) -> Plan:
        """The plan of the evaluation beside training, without bundles if there is none."""
        return Plan("evaluate", self.bundles[len(self.own) :])

    @property
    def seats(self) -> list[Seat]:
        """All seats of the job itself, bundle by bundle."""
        found: list[Seat] = []
        for bundle in self.own:
            found += bundle.seats
        return found

    @property
    def gpus(self) -> float:
        """The sum of all shares."""
        return round(sum(bundle.gpus for bundle in self.bundles), 4)

    @property
    def whole_gpus(self) -> int:
        """The number of GPUs in use, if all are in one node."""
        spots = fit(self, [Node(math.ceil(self.gpus) + len(self.bundles))])
        assert spots is not None, "there is a GPU for every bundle"
        return len({gpu for spot in spots for gpu in spot.gpus})

    def count(self, kind: Kind) -> int:
        """Return the number of actors of a kind."""
        return sum(seat.kind == kind for seat in self.seats)

    def share(self, kind: Kind, default: float = SHARED_GPU) -> float:
        """Return the GPU share of one actor of a kind; `default` if the plan has none."""
        for seat in self.seats:
            if seat.kind == kind:
                return seat.gpus
        return default

    def bundle_of(self, kind: Kind, number: int) -> int | None:
        """Return the number of an actor's bundle; None for an actor that is not planned."""
        for index, bundle in enumerate(self.own):
            for seat in bundle.seats:
                if (seat.kind, seat.number) == (kind, number):
                    return index
        return None

    def __str__(self) -> str:
        parts = []
        for kind, word in WORDS.items():
            count = self.count(kind)
            if count:
                plural = "" if count == 1 else "s"
                parts.append(f"{count} {word}{plural} x {self.share(kind):g} GPU")
        between = ", then " if self.job == "segment" else " + "
        text = between.join(parts) or "no GPU"
        return f"{text}, and beside it {self.evaluation}" if self.beside else text


# --- from settings to plans


def plans(cfg: Config, job: Job) -> Iterator[Plan]:
    """Yield the possible plans of a job on GPUs, from the roomiest to the tightest.

    Training has one, or two with cluster.weight_backend=ipc. A job without a learner can do with
    fewer engines, and an engine on a single GPU can lend a part of it.
    """
    beside = _beside(cfg) if job == "train" and cfg.train.evaluates_beside else []
    for bundles in _MAKERS[job](cfg):
        yield Plan(job, (*bundles, *beside), len(beside))


def plan_of(cfg: Config, job: Job, nodes: Sequence[Node]) -> Plan:
    """Return the roomiest plan that fits on these nodes.

    Raises:
        ValueError: not even the tightest one fits, or settings exclude each other; with the
            arithmetic and a remedy.
    """
    check_pairs(cfg, job)
    tightest = Plan(job)
    for tightest in plans(cfg, job):
        if fit(tightest, nodes) is not None:
            return tightest
    raise ValueError(f"{shortage(tightest, nodes)}: {remedy(cfg, job, nodes)}")


def tightest_plan(cfg: Config, job: Job) -> Plan:
    """Return the plan with the fewest GPUs that still has every actor of the settings."""
    engines = cfg.rollout.first_workers
    complete = [plan for plan in plans(cfg, job) if plan.count("rollout") in (0, 1, engines)]
    all_engines = [plan for plan in complete if plan.count("rollout") == engines]
    return (all_engines or complete)[-1]


def check_pairs(cfg: Config, job: Job) -> None:
    """Check the settings of engines that share GPUs with learner ranks.

    Raises:
        ValueError: cluster.weight_backend=ipc with other numbers of engines and ranks.
    """
    rollout = cfg.rollout
    ranks = cfg.learner.world_size
    if job != "train" or cfg.cluster.weight_backend != "ipc":
        return
    if rollout.tensor_parallel > 1 or rollout.first_workers > ranks:
        raise ValueError(
            f"cluster.weight_backend=ipc: each rollout actor shares the GPU of one learner rank, "
            f"but rollout.workers={rollout.first_workers}, "
            f"rollout.tensor_parallel={rollout.tensor_parallel} and learner.world_size={ranks}; "
            "set tensor_parallel=1 and workers to at most world_size"
        )


def _train(cfg: Config) -> Iterator[list[Bundle]]:
    helpers = _helpers(cfg)
    if cfg.cluster.weight_backend != "ipc":
        yield _engines(cfg, cfg.rollout.first_workers) + _learners(cfg) + _alone(helpers)
        return
    pairs = _pairs(cfg, 0.5)
    yield pairs + _alone(helpers)
    yield _lend(_pairs(cfg, LENDING_PAIR), helpers, 1 - 2 * LENDING_PAIR)


def _warm_start(cfg: Config) -> Iterator[list[Bundle]]:
    yield _learners(cfg)


def _beside(cfg: Config) -> list[Bundle]:
    """Return the bundles of an evaluation beside training: one actor of each kind, on few GPUs."""
    helpers: list[tuple[Kind, int]] = [("reward", 0), ("segmenter", 0)]
    if cfg.mask.token:
        helpers.append(("drawer", 0))
    if cfg.rollout.tensor_parallel > 1:
        return _engines(cfg, 1) + _alone(helpers)
    return _lend(_engines(cfg, 1, LENDING_ENGINE), helpers, 1 - LENDING_ENGINE)


def _evaluate(cfg: Config) -> Iterator[list[Bundle]]:
    helpers = _helpers(cfg)
    if cfg.mask.token:
        helpers.append(("drawer", 0))
    for workers in range(cfg.rollout.first_workers, 0, -1):
        yield _engines(cfg, workers) + _alone(helpers)
        if cfg.rollout.tensor_parallel == 1:
            engines = _engines(cfg, workers, LENDING_ENGINE)
            yield _lend(engines, helpers, 1 - LENDING_ENGINE)


def _segment(cfg: Config) -> Iterator[list[Bundle]]:
    # One pool at a time, so they take turns on the engine's GPUs.
    engine = Seat("rollout", 0, float(cfg.rollout.tensor_parallel))
    seats = [engine, Seat("segmenter", 0, 1.0)]
    if cfg.mask.token:
        seats.append(Seat("drawer", 0, 1.0))
    yield [Bundle(engine.gpus, 1.0, tuple(seats))]


def _prepare(cfg: Config) -> Iterator[list[Bundle]]:
    if "filter" not in cfg.prepare.steps:
        yield []
        return
    # While the label filter runs nothing else does, so its judges divide all GPUs among them.
    judges = cfg.segmenter.workers
    for on_a_gpu in range(1, judges + 1):
        share = math.floor(GRAIN / on_a_gpu) / GRAIN
        yield [_bundle(Seat("judge", number, share)) for number in range(judges)]


def _rate_difficulty(cfg: Config) -> Iterator[list[Bundle]]:
    for workers in range(cfg.rollout.first_workers, 0, -1):
        yield _engines(cfg, workers)


_MAKERS: dict[Job, Callable[[Config], Iterator[list[Bundle]]]] = {
    "train": _train,
    "warm_start": _warm_start,
    "evaluate": _evaluate,
    "segment": _segment,
    "prepare": _prepare,
    "rate_difficulty": _rate_difficulty,
}


def _bundle(seat: Seat) -> Bundle:
    return Bundle(seat.gpus, seat.cpus, (seat,))


def _engines(cfg: Config, workers: int, share: float = 1.0) -> list[Bundle]:
    gpus = cfg.rollout.tensor_parallel * share
    return [_bundle(Seat("rollout", number, gpus)) for number in range(workers)]


def _learners(cfg: Config) -> list[Bundle]:
    return [_bundle(Seat("learner", rank, 1.0)) for rank in range(cfg.learner.world_size)]


def _pairs(cfg: Config, share: float) -> list[Bundle]:
    """Return a GPU for each learner rank, with the engine of the same number on it."""
    pairs = []
    for number in range(cfg.learner.world_size):
        seats = [Seat("learner", number, share)]
        if number < cfg.rollout.first_workers:
            seats.insert(0, Seat("rollout", number, share))
        pairs.append(Bundle(1.0, 2.0, tuple(seats)))
    return pairs


def _helpers(cfg: Config) -> list[tuple[Kind, int]]:
    """Return the actors without a GPU of their own."""
    helpers: list[tuple[Kind, int]] = []
    for number in range(cfg.reward.workers):
        helpers.append(("reward", number))
    for number in range(cfg.segmenter.workers):
        helpers.append(("segmenter", number))
    return helpers


def _alone(helpers: Sequence[tuple[Kind, int]]) -> list[Bundle]:
    return [_bundle(Seat(kind, number, SHARED_GPU)) for kind, number in helpers]


def _lend(
    owners: Sequence[Bundle], helpers: Sequence[tuple[Kind, int]], rest: float
) -> list[Bundle]:
    """Deal the helpers to the GPUs of engines, of which the part `rest` is free."""
    most = math.ceil(len(helpers) / len(owners))
    share = min(SHARED_GPU, math.floor(GRAIN * rest / most) / GRAIN)
    seats = [list(owner.seats) for owner in owners]
    for index, (kind, number) in enumerate(helpers):
        seats[index % len(owners)].append(Seat(kind, number, share))
    return [Bundle(1.0, float(len(each)), tuple(each)) for each in seats]


# The settings with the number of a job's actors on whole GPUs.
_SIZES: dict[Job, tuple[str, ...]] = {
    "train": ("rollout.workers", "learner.world_size"),
    "warm_start": ("learner.world_size",),
    "evaluate": (),
    "segment": (),
    "prepare": (),
    "rate_difficulty": (),
}


# --- from plans to nodes


@dataclass
class _Free:
    """What is left of a node: of each GPU a part, and CPU cores."""

    gpus: list[float]
    cpus: float
    taken: list[int] = field(default_factory=list)

    def take(self, bundle: Bundle) -> tuple[int, ...] | None:
        """Take the GPUs of a bundle; None without room for it."""
        if bundle.cpus > self.cpus:
            return None
        if bundle.gpus >= 1:
            free = [gpu for gpu, left in enumerate(self.gpus) if left == 1.0]
            found = tuple(free[: math.ceil(bundle.gpus)])
            if len(found) < bundle.gpus:
                return None
        else:
            room = [gpu for gpu, left in enumerate(self.gpus) if left >= bundle.gpus]
            if not room:
                return None
            found = (min(room, key=lambda gpu: self.gpus[gpu]),)
        for gpu in found:
            self.gpus[gpu] = round(self.gpus[gpu] - min(bundle.gpus, 1.0), 4)
        self.cpus -= bundle.cpus
        return found


def fit(plan: Plan, nodes: Sequence[Node]) -> list[Spot] | None:
    """Return a spot for each bundle of a plan, in their order; None if they do not fit.

    The largest bundles come first, each on the node where it leaves the least, as Ray packs them.
    """
    free = [_Free([1.0] * int(node.gpus), node.cpus) for node in nodes]
    spots: dict[int, Spot] = {}
    order = sorted(range(len(plan.bundles)), key=lambda index: -plan.bundles[index].gpus)
    for index in order:
        by_room = sorted(range(len(free)), key=lambda node: sum(free[node].gpus))
        for node in by_room:
            gpus = free[node].take(plan.bundles[index])
            if gpus is not None:
                spots[index] = Spot(node, gpus)
                break
        else:
            return None
    return [spots[index] for index in range(len(plan.bundles))]


def shortage(plan: Plan, nodes: Sequence[Node]) -> str:
    """Return in words what a plan asks for and what the nodes have."""
    gpus = _gpus(plan.gpus)
    if plan.whole_gpus != plan.gpus:
        gpus += f", {plan.whole_gpus} whole ones because a share cannot span GPUs"
    return f"{plan.job} asks for {plan} = {gpus}; the cluster has {room_of(nodes)}"


def room_of(nodes: Sequence[Node]) -> str:
    """Return the GPUs of some nodes in words, such as "8 GPUs (4 + 4 on 2 nodes)"."""
    counts = [int(node.gpus) for node in nodes if node.gpus >= 1]
    total = _gpus(sum(counts))
    if len(counts) > 1:
        total += f" ({' + '.join(map(str, counts))} on {len(counts)} nodes)"
    cores = sum(node.cpus for node in nodes)
    if nodes and math.isfinite(cores):
        total += f" and {cores:g} CPU cores"
    return total


def _gpus(count: float) -> str:
    return f"{count:g} GPU" if count == 1 else f"{count:g} GPUs"


def remedy(cfg: Config, job: Job, nodes: Sequence[Node]) -> str:
    """Return what to change so that the job fits on these nodes."""
    general = "add nodes, or set cluster.use_gpu=no"
    if all(node.gpus < 1 for node in nodes):
        return general
    for key, smaller in _smaller(cfg, job):
        if any(fit(plan, nodes) is not None for plan in plans(smaller, job)):
            return f"set {key}, {general}"
    keys = ["rollout.tensor_parallel"] if cfg.rollout.tensor_parallel > 1 else []
    keys += _SIZES[job]
    return f"lower {' and '.join(keys)}, {general}" if keys else general


def _smaller(cfg: Config, job: Job) -> Iterator[tuple[str, Config]]:
    """Yield smaller settings of one kind at a time, the largest first, with what was set."""
    if job == "train" and cfg.train.evaluates_beside:
        train = replace(cfg.train, eval_beside=False)
        yield "train.eval_beside=false", replace(cfg, train=train)
    if job == "train" and cfg.cluster.weight_backend == "ipc":
        yield from _fewer_pairs(cfg)
        return
    if "rollout.workers" in _SIZES[job]:
        for workers in range(cfg.rollout.first_workers - 1, 0, -1):
            rollout = replace(cfg.rollout, workers=workers)
            yield f"rollout.workers={workers}", replace(cfg, rollout=rollout)
    if "learner.world_size" in _SIZES[job]:
        for ranks in range(cfg.learner.world_size - 1, 0, -1):
            learner = replace(cfg.learner, world_size=ranks)
            yield f"learner.world_size={ranks}", replace(cfg, learner=learner)


def _fewer_pairs(cfg: Config) -> Iterator[tuple[str, Config]]:
    """Yield smaller settings of ranks and the engines on their GPUs."""
    for ranks in range(cfg.learner.world_size - 1, 0, -1):
        workers = min(cfg.rollout.first_workers, ranks)
        fewer = replace(
            cfg,
            rollout=replace(cfg.rollout, workers=workers),
            learner=replace(cfg.learner, world_size=ranks),
        )
        yield f"rollout.workers={workers} and learner.world_size={ranks}", fewer
