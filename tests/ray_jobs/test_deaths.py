"""Deaths of driver and learner at every moment of a run: its history is that of an undisturbed one.

The loop, the group log, checkpoints and record are the real ones. The processes are played by
`Learner`, `Rollouts` and `Rewards`, whose weights are a digest of all that was learned. Real
processes die in test_resume.py.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors.learner_pool import LearnerLost
from actors.rollout import Played, copies
from actors.save_marks import mark_of
from cluster.lost import Deaths
from cluster.placement import Placement
from cluster.plan import Plan
from configs.load import load
from configs.schema import Config
from core.types import Answer, End, Episode, Group, Reward, Sample, Turn, Update, Video
from data.mixing import MixedSet, make_mix
from ray_jobs import train
from ray_jobs.driver.beside import Beside
from ray_jobs.driver.masking import PointingPolicy
from ray_jobs.driver.rebuilds import history_of, origin_of
from ray_jobs.driver.recording import Recording
from ray_jobs.driver.requests import Requests
from ray_jobs.driver.results import Evaluation, Result, write_evaluation
from ray_jobs.driver.run import Run
from ray_jobs.driver.saving import Saving
from ray_jobs.record import checkpoint
from ray_jobs.record.group_log import GroupLog
from ray_jobs.record.run_folder import RunFolder

STEPS = 5
PROMPTS = 3


class DriverKilled(BaseException):
    """What kill -9 is to a process: nothing catches it."""


SAMPLES = [Sample(f"v{n}", Video(f"v{n}", "nowhere", ("0",), 4, 4), "", ()) for n in range(4)]


def digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@dataclass
class Fate:
    """The deaths to come, by the number of the event at which they happen."""

    deaths: Mapping[int, type[BaseException]] = field(default_factory=dict)
    events: int = 0

    def pass_by(self) -> None:
        self.events += 1
        kind = self.deaths.get(self.events)
        if kind is LearnerLost:
            raise LearnerLost("rank 0", "while it was tested")
        if kind is not None:
            raise kind


@dataclass
class Version:
    version: int
    weights: str


class Learner:
    ranks = (0,)

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.weights = "initial"
        fate.pass_by()

    def begin(self, newest: int) -> OpenBatch:
        return OpenBatch(self)

    def publish(self, version: int) -> Version:
        self.fate.pass_by()
        return Version(version, self.weights)

    def save(self, folder: Path, beside: bool) -> None:
        (folder / "weights").write_text(self.weights)
        self.fate.pass_by()
        mark_of(folder, 0).write_text("")

    def check(self) -> None: ...

    def load(self, folder: Path) -> None:
        self.fate.pass_by()
        self.weights = (folder / "weights").read_text()


@dataclass
class OpenBatch:
    """Gradients of an open batch; the weights change at its end."""

    learner: Learner
    gradients: str = ""

    def add(self, groups: Sequence[Group], videos: Sequence[Video], masks: None) -> None:
        self.learner.fate.pass_by()
        shown = [turn for group in groups for turn in group.episodes[0].turns]
        self.gradients = digest(self.gradients, shown, [video.uid for video in videos])

    def finish(self) -> Update:
        self.learner.fate.pass_by()
        self.learner.weights = digest(self.learner.weights, self.gradients)
        self.learner.fate.pass_by()
        metrics = {"weight_max": 1.0, "bad_steps": 0.0, "logprob_gap_mean": 0.0}
        return Update(0.0, 1.0, metrics)


@dataclass(frozen=True)
class ScriptedTask:
    step: int
    index: int
    sample: Sample
    copy: int


class Rollouts:
    """Plays with the weights it was given; a group's tokens tell which ones these were.

    Groups finish in any order.
    """

    def __init__(
        self,
        cfg: Config,
        fate: Fate,
        plays: Counter[tuple[int, int]],
        ages: dict[tuple[int, int], int],
        rng: random.Random,
    ) -> None:
        self.cfg = cfg
        self.fate = fate
        self.plays = plays
        self.ages = ages
        self.held = Version(0, "initial")
        self.rng = rng

    @property
    def version(self) -> int:
        return self.held.version

    def up(self) -> list[int]:
        return [0]

    def take(self, weights: Version) -> None:
        self.held = weights

    def tasks(
        self, samples: Sequence[Sample], *, step: int, skip: Collection[int], **_: Any
    ) -> Iterator[ScriptedTask]:
        numbers = copies(samples)
        for index, sample in enumerate(samples):
            if index not in skip:
                yield ScriptedTask(step, index, sample, numbers[index])

    def play_tasks(self, tasks: Iterable[ScriptedTask | None], group_size: int) -> Iterator[Played]:
        under_way: list[ScriptedTask] = []
        for task in itertools.chain(tasks, [None]):
            if task is not None:
                under_way.append(task)
                continue
            self.rng.shuffle(under_way)
            while under_way:
                yield self.played(under_way.pop())
            time.sleep(0.001)

    def played(self, task: ScriptedTask) -> Played:
        self.fate.pass_by()
        sample = task.sample
        key = digest(self.held.weights, task.step, sample.uid, task.copy)
        ids = tuple(key.encode())
        turn = Turn(ids, ids, (-0.5,) * len(ids), key, (), True, self.held.version)
        episode = Episode(sample.uid, (turn,), End.DONE, Answer())
        self.plays[task.step, task.index] += 1
        self.ages[task.step, task.index] = task.step - 1 - turn.version
        return Played(task.index, sample, (episode, episode), task.step)


class Rewards:
    def submit(
        self, split: str, uid: str, episodes: Sequence[Episode], **_: Any
    ) -> Sequence[Episode]:
        return episodes

    def collect(self, episodes: Sequence[Episode]) -> tuple[Reward, ...]:
        """Return rewards that differ in two of three groups."""
        differ = int(episodes[0].turns[0].text, 16) % 3 > 0
        return tuple(Reward(float(number * differ), {}) for number in range(len(episodes)))


class Tracker:
    def __init__(self, fate: Fate, steps: list[int]) -> None:
        self.fate = fate
        self.steps = steps

    def metrics(self, step: int, metrics: Any) -> None:
        # Nothing of the learner is waited for here, so its death would not be noticed.
        if self.fate.deaths.get(self.fate.events + 1) is not LearnerLost:
            self.fate.pass_by()
        if "reward" in metrics:
            self.steps.append(step)

    def has(self, step: int, name: str) -> bool:
        return step in self.steps

    def model(self, folder: Path, step: int) -> None: ...


class Silent:
    """A display without a screen."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


class ScriptedPools:
    def __init__(
        self,
        cfg: Config,
        fate: Fate,
        plays: Counter[tuple[int, int]],
        ages: dict[tuple[int, int], int],
        checkpoints: Path,
        rng: random.Random,
    ) -> None:
        self.rollouts = Rollouts(cfg, fate, plays, ages, rng)
        self.rewards = Rewards()
        self.saving = Saving(checkpoints, print)
        self.beside: Beside | None = None
        self._fate = fate
        self._learner: Learner | None = None

    @property
    def learner(self) -> Learner:
        if self._learner is None:
            self._learner = Learner(self._fate)
        return self._learner

    def drop_learner(self) -> None:
        self.saving.abandon()
        self._learner = None


class Job:
    """A run whose driver is started again after every kill.

    Attributes:
        plays: how often each group was played, by step and index.
        ages: updates between the weights of each group and those of its step.
        points: steps as the tracker got them.
        rng: decides on the order in which groups finish.
    """

    def __init__(self, home: Path, deaths: Mapping[int, type[BaseException]], *more: str) -> None:
        self.fate = Fate(deaths)
        self.plays: Counter[tuple[int, int]] = Counter()
        self.ages: dict[tuple[int, int], int] = {}
        self.points: list[int] = []
        self.rng = random.Random(0)
        self.saving = Saving(home, print)
        self.beside: Beside | None = None
        self.folder = RunFolder(home / "run")
        settings = [
            f"train.steps={STEPS}",
            f"rollout.prompts_per_step={PROMPTS}",
            "rollout.group_size=2",
            "train.eval_before=false",
            "train.eval_every=0",
            "train.checkpoint_every=2",
            "train.keep_checkpoints=1",
            "cluster.max_rebuilds=99",
        ]
        self.cfg = load(["revseg_tiny", *settings, *more])

    def run(self) -> str:
        """Start the driver until it comes to the end; return the digest of the weights."""
        while True:
            try:
                return self.start()
            except DriverKilled:
                # The kill comes before or after the write under way, never with the next driver.
                self.saving.abandon()
                if self.beside is not None:
                    self.beside.close()

    def beside_of(self, run: Run) -> Beside | None:
        return None

    def start(self) -> str:
        cfg = self.cfg
        record = RunFolder.open(self.folder.path, "")
        start = checkpoint.find(record.checkpoints, "auto")
        pools: Any = ScriptedPools(
            cfg, self.fate, self.plays, self.ages, record.checkpoints, self.rng
        )
        self.saving = pools.saving
        screen: Any = Silent()
        tracker: Any = Tracker(self.fate, self.points)
        nothing: Any = None
        placement = Placement("cpu", {}, Plan("train"))
        run = Run(cfg, nothing, {}, record, screen, tracker, placement, Requests(), screen)
        pools.beside = self.beside = self.beside_of(run)
        origin = origin_of(cfg, record.checkpoints, start)
        log = GroupLog.open(record.path / "groups", history_of(cfg, origin))
        recording = Recording.open(record, tracker, screen, Deaths(lambda text: None))
        summary = train.train_through_deaths(
            run,
            pools,
            PointingPolicy(pools),
            log,
            recording,
            (make_mix([MixedSet("", SAMPLES)], cfg.seed), {}),
            start,
            train.TrainingState(origin=origin),
        )
        return str(summary["weights"])


@dataclass
class WeightsEvaluator:
    """Takes the J&F out of a checkpoint's weights, and writes it as the real one does."""

    run: Run
    rng: random.Random
    is_closed: bool = False

    def measure(self, step: int, folder: Path) -> Evaluation:
        # Some come in the same step, others after the end of the last one.
        time.sleep(self.rng.choice([0.0, 0.02, 0.1]))
        if self.is_closed:
            raise RuntimeError("its actors are gone")
        evaluation = evaluation_of((folder / "weights").read_text())
        there = self.run.record.evaluation_folder(step) / self.run.cfg.data.eval_split
        write_evaluation(there, evaluation)
        return evaluation

    def close(self) -> None:
        self.is_closed = True


def evaluation_of(weights: str) -> Evaluation:
    share = int(digest("watched", weights), 16) % 1000 / 1000
    episode = Episode("v0", (), End.DONE)
    return Evaluation((Result(SAMPLES[0], episode, (), None, {"J": share, "F": share}),))


class WatchingJob(Job):
    """A job that evaluates beside its steps, and keeps all checkpoints of these."""

    def __init__(self, home: Path, deaths: Mapping[int, type[BaseException]], *more: str) -> None:
        settings = ["train.eval_every=2", "train.eval_beside=true", *more]
        super().__init__(home, deaths, *settings)

    def beside_of(self, run: Run) -> Beside:
        return Beside(WeightsEvaluator(run, self.rng), lambda text: None)

    def watched(self) -> dict[str, float]:
        last = self.folder.checkpoints / f"step_{STEPS}"
        return dict(checkpoint.read_state(last)["watched"])

    def best(self) -> str:
        return os.readlink(self.folder.path / "best")


@pytest.fixture(autouse=True, scope="module")
def without_processes() -> Iterator[None]:
    """Let nothing start Ray: nothing is measured in the end."""
    with pytest.MonkeyPatch.context() as patch:
        # No death here costs the contents of a file, so nothing has to wait for the disk.
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(train, "finish", final_weights)
        yield


def final_weights(run: Run, pools: Any, masking: Any, state: Any) -> dict[str, str]:
    assert pools.rollouts.version == STEPS
    return {"weights": pools.learner.publish(STEPS).weights}


def check_history(job: Job) -> None:
    """Every group was played and recorded once, every step recorded once."""
    once = Counter({(s, i): 1 for s in range(1, STEPS + 1) for i in range(PROMPTS)})
    assert job.plays == once
    assert [line["step"] for line in job.folder.steps()] == list(range(1, STEPS + 1))
    assert job.points == list(range(1, STEPS + 1))
    episodes = Counter(line["step"] for line in job.folder.episodes())
    assert set(episodes.values()) == {2 * PROMPTS}
    # The last checkpoint makes the log superfluous.
    assert not list((job.folder.path / "groups").iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The digest of a run without deaths, and the number of its events."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), {})
    weights = job.run()
    check_history(job)
    return weights, job.fate.events


@pytest.mark.parametrize(("order", "same"), [("prompts", True), ("arrival", False)])
def test_the_order_of_arrival_matters_only_if_asked_for(
    tmp_path: Path, undisturbed: tuple[str, int], order: str, same: bool
) -> None:
    job = Job(tmp_path, {}, f"rollout.order={order}")
    job.rng.seed(1)
    weights = job.run()
    check_history(job)
    assert (weights == undisturbed[0]) is same


@pytest.mark.parametrize("seed", range(3))
def test_deaths_change_nothing_where_groups_are_replaced(tmp_path: Path, seed: int) -> None:
    job = Job(tmp_path / "calm", {}, "rollout.max_replaced=2")
    weights = job.run()
    played = Counter(step for step, _ in job.plays)
    assert set(job.plays.values()) == {1}
    assert PROMPTS < max(played.values()) <= PROMPTS + 2
    assert sum(line["replaced_groups"] for line in job.folder.steps()) == len(job.plays) - (
        STEPS * PROMPTS
    )

    rng = random.Random(seed)
    moments = rng.sample(range(1, 100), 6)
    deaths = {moment: rng.choice([DriverKilled, LearnerLost]) for moment in moments}
    disturbed = Job(tmp_path / "disturbed", deaths, "rollout.max_replaced=2")
    assert disturbed.run() == weights
    assert disturbed.plays == job.plays


@pytest.mark.parametrize("seed", range(8))
def test_deaths_change_nothing(tmp_path: Path, undisturbed: tuple[str, int], seed: int) -> None:
    weights, events = undisturbed
    rng = random.Random(seed)
    moments = rng.sample(range(1, 2 * events), 6)
    job = Job(tmp_path, {moment: rng.choice([DriverKilled, LearnerLost]) for moment in moments})
    assert job.run() == weights
    check_history(job)


@pytest.mark.parametrize(("seed", "staleness"), [(0, 1), (1, 2), (2, 4)])
def test_deaths_while_playing_ahead(tmp_path: Path, seed: int, staleness: int) -> None:
    rng = random.Random(seed)
    moments = rng.sample(range(1, 60), 5)
    deaths = {moment: rng.choice([DriverKilled, LearnerLost]) for moment in moments}
    job = Job(tmp_path, deaths, f"rollout.max_staleness={staleness}")
    job.run()
    check_history(job)
    assert 1 <= max(job.ages.values()) <= staleness
    # After a death a group may be played with newer weights than those of its step.
    assert max(job.ages[step, PROMPTS - 1] for step in range(1, STEPS + 1)) <= 0


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> WatchingJob:
    """A run without deaths that evaluates beside its steps."""
    job = WatchingJob(tmp_path_factory.mktemp("watching"), {})
    job.run()
    check_history(job)
    return job


def test_an_evaluation_beside_changes_no_weights(
    watching: WatchingJob, undisturbed: tuple[str, int]
) -> None:
    last = watching.folder.checkpoints / f"step_{STEPS}"
    assert (last / "weights").read_text() == undisturbed[0]


def test_best_is_the_one_with_the_highest_figure(watching: WatchingJob) -> None:
    watched = watching.watched()
    assert set(watched) == {"2", "4"}
    assert watching.best() == f"checkpoints/step_{max(watched, key=lambda step: watched[step])}"
    weights = (watching.folder.path / "best" / "weights").read_text()
    assert max(watched.values()) == evaluation_of(weights).mean("jf")


@pytest.mark.parametrize("seed", range(8))
def test_deaths_change_no_evaluation_beside(
    tmp_path: Path, watching: WatchingJob, seed: int
) -> None:
    rng = random.Random(seed)
    moments = rng.sample(range(1, 2 * watching.fate.events), 6)
    deaths = {moment: rng.choice([DriverKilled, LearnerLost]) for moment in moments}
    job = WatchingJob(tmp_path, deaths)
    job.rng.seed(seed)
    job.run()
    check_history(job)
    assert job.watched() == watching.watched()
    assert job.best() == watching.best()


def test_a_learner_that_always_dies_ends_the_run(tmp_path: Path) -> None:
    # It gets through the first step, and dies in the second one.
    deaths = dict.fromkeys(range(12, 99), LearnerLost)
    job = Job(tmp_path, deaths, "cluster.max_rebuilds=2")
    with pytest.raises(RuntimeError, match="started anew 2 times without another step"):
        job.run()


def test_groups_that_are_lost_are_played_again(
    tmp_path: Path, undisturbed: tuple[str, int]
) -> None:
    # The third step is on record, and the last checkpoint is of the second one.
    job = Job(tmp_path, {33: DriverKilled})
    with pytest.raises(DriverKilled):
        job.start()
    assert job.folder.last_step() == 3
    (job.folder.path / "groups" / "step_3.jsonl").unlink()
    assert job.run() == undisturbed[0]
    assert [line["step"] for line in job.folder.steps()] == list(range(1, STEPS + 1))
    assert [job.plays[3, index] for index in range(PROMPTS)] == [2] * PROMPTS
