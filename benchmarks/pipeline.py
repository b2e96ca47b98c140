"""Seconds of a training step with simulated stages behind the real pools, loop and group log.

    python -m benchmarks.pipeline [--seconds 6] [--prompts 64] [--steps 5] [--jitter 0 0.33 0.67]

Three engines and four ranks sleep: an engine plays one group after another, each for a random time
around the mean, and a rank learns a row for a constant time. Playing a step and learning it take the
same time on average. `barrier` is the loop before groups were streamed: a step is played to its end,
then learned. `streamed` is `train_step`. Prints the seconds of a step, and their ratio to the longer
one of play and learn.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import ray

from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from actors.objective import RowStats, StepReport
from actors.rollout import RolloutActor, RolloutPool
from benchmarks.measuring import argument_parser, spread
from cluster.lost import Deaths
from cluster.refs import Handle, start_actor
from cluster.watch import Watch
from cluster.weights import WeightVersion
from configs.load import load as load_config
from configs.schema import Config
from core.batch import ImageLayout
from core.grpo import judge
from core.types import Answer, End, Episode, Group, Reward, Sample, Turn, Video
from data.mixing import MixedSet, make_mix
from ray_jobs.driver.guard import Guard
from ray_jobs.driver.player import Player
from ray_jobs.driver.recording import Recording
from ray_jobs.driver.requests import Requests
from ray_jobs.driver.sampling import Draws
from ray_jobs.record.group_log import GroupLog
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.train import train_step

ENGINES = 3
RANKS = 4
PROMPT = tuple(range(100, 160))
ANSWER = tuple(range(200, 220))
# A row holds one group.
ROW_TOKENS = 110


class SleepingEngine:
    """Plays by sleeping, one group after another."""

    def __init__(self, seconds: float, jitter: float) -> None:
        self.seconds = seconds
        self.jitter = jitter
        self.newest = 0
        self.one = asyncio.Lock()

    async def play_group(
        self, sample: Sample, group_size: int, temperature: float, key: Any
    ) -> tuple[tuple[Episode, ...], dict[str, Any]]:
        rng = np.random.default_rng([key[1], int(sample.uid)])
        async with self.one:
            await asyncio.sleep(self.seconds * rng.uniform(1 - self.jitter, 1 + self.jitter))
            turn = Turn(PROMPT, ANSWER, (-0.5,) * len(ANSWER), "", (), True, self.newest)
        episode = Episode(sample.uid, (turn,), End.DONE, Answer())
        return (episode,) * group_size, {}

    async def take(self, weights: WeightVersion) -> int:
        self.newest = weights.version
        return self.newest

    async def version(self) -> int:
        return self.newest


class SleepingRank:
    """Learns a row by sleeping."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rows = 0

    def add(self, rows: Sequence[Any], media: Any, imitate: bool, targets: Any = None) -> None:
        time.sleep(self.seconds * len(rows))
        self.rows += len(rows)

    def finish(self, divisor: float) -> list[StepReport]:
        seconds = self.seconds * self.rows
        self.rows = 0
        return [StepReport(RowStats(), 1.0, 0.0, 1.0, seconds)]

    def publish(self, version: int) -> tuple[WeightVersion, None]:
        return WeightVersion(version, (), (), (), "", None), None


class SleepingRollouts(RolloutPool):
    """The pool of rollout actors, with engines that sleep."""

    def __init__(self, cfg: Config, seconds: float, jitter: float) -> None:
        self.seconds = seconds
        self.jitter = jitter
        watched: Any = SimpleNamespace(
            device="cpu", watch=Watch(), count=lambda kind, workers: workers
        )
        super().__init__(cfg, watched)

    def start(self, number: int) -> Handle[RolloutActor]:
        engine = start_actor(SleepingEngine, {"num_cpus": 0}, self.seconds, self.jitter)
        return cast(Handle[RolloutActor], engine)


class SleepingLearner(LearnerPool):
    """The pool of the learner, with ranks that sleep."""

    def __init__(self, cfg: Config, seconds: float) -> None:
        self.cfg = cfg
        self.watch = Watch()
        self.whereabouts = []
        self.bad_steps = 0
        self.layout = ImageLayout(1, 28)
        self.ranks = []
        for _ in range(RANKS):
            rank = start_actor(SleepingRank, {"num_cpus": 0}, seconds)
            self.ranks.append(cast(Handle[LearnerActor], rank))


class Rewards:
    """Rewards that cost nothing."""

    def submit(self, split: str, uid: str, episodes: Sequence[Episode]) -> Sequence[Episode]:
        return episodes

    def collect(self, episodes: Sequence[Episode]) -> tuple[Reward, ...]:
        return tuple(Reward(float(number), {}) for number in range(len(episodes)))


class Silent:
    """A display and a tracker that show nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


def settings(options: argparse.Namespace) -> Config:
    """Return the configuration of the simulated run."""
    return load_config(
        [
            "revseg_tiny",
            f"train.steps={options.steps}",
            f"rollout.workers={ENGINES}",
            f"rollout.prompts_per_step={options.prompts}",
            "rollout.group_size=2",
            # One group at a time; three wait for it in an engine's queue.
            "rollout.max_num_seqs=2",
            "train.max_logprob_gap=99",
            f"learner.world_size={RANKS}",
            f"learner.row_tokens={ROW_TOKENS}",
        ]
    )


class Bench:
    """One run with simulated stages, for each way to order them."""

    def __init__(self, options: argparse.Namespace, jitter: float) -> None:
        """Start the pools.

        Args:
            jitter: largest deviation of a group's seconds, as a share of their mean.
        """
        self.cfg = settings(options)
        # Means: all groups by three engines, and all rows by four ranks.
        play_s = options.seconds * ENGINES / options.prompts
        learn_s = options.seconds * RANKS / options.prompts
        self.pools: Any = SimpleNamespace(
            rollouts=SleepingRollouts(self.cfg, play_s, jitter),
            learner=SleepingLearner(self.cfg, learn_s),
            rewards=Rewards(),
        )
        self.pools.rollouts.ready()
        self.samples: list[Sample] = []
        for number in range(options.prompts * (options.steps + 2)):
            video = Video(str(number), "nowhere", ("0",), 4, 4)
            self.samples.append(Sample(str(number), video, "", ()))

    def draws(self) -> Draws:
        mix = make_mix([MixedSet("", self.samples)], self.cfg.seed)
        return Draws(mix, self.cfg.rollout.prompts_per_step)

    def barrier(self) -> list[float]:
        """Play each step to its end, then learn it, as before groups were streamed."""
        draws = self.draws()
        rollout = self.cfg.rollout
        seconds: list[float] = []
        for step in range(1, self.cfg.train.steps + 1):
            began = time.monotonic()
            groups: dict[int, Group] = {}
            media: dict[int, Any] = {}
            arrivals = self.pools.rollouts.play(
                draws.of_step(step),
                group_size=rollout.group_size,
                temperature=rollout.temperature,
                step=step,
                training=True,
            )
            for played in arrivals:
                rewards = self.pools.rewards.collect(played.episodes)
                groups[played.index] = judge(Group(played.sample.uid, played.episodes, rewards))
                media[played.index] = played.media_ref
            order = sorted(groups)
            judged = [groups[index] for index in order]
            self.pools.learner.learn(judged, [media[index] for index in order])
            self.pools.rollouts.take(self.pools.learner.publish(step))
            seconds.append(time.monotonic() - began)
        return seconds

    def streamed(self) -> list[float]:
        """Run the loop of `ray_jobs.train`."""
        from ray_jobs.driver.masking import PointingPolicy

        silent: Any = Silent()
        seconds: list[float] = []
        with tempfile.TemporaryDirectory() as home:
            record = RunFolder.open(Path(home) / "run", "")
            nothing: Any = None
            run: Any = SimpleNamespace(
                cfg=self.cfg, record=record, progress=silent, requests=Requests(), placement=nothing
            )
            masking = PointingPolicy(self.pools)
            log = GroupLog.open(record.path / "groups", "pipeline")
            recording = Recording.open(record, silent, silent, Deaths(lambda text: None))
            guard = Guard(self.cfg, record.checkpoints)
            steps = self.cfg.train.steps
            player = Player(run, self.pools, masking, log, self.draws(), recording, 1, steps)
            for step in range(1, steps + 1):
                began = time.monotonic()
                train_step(run, self.pools, masking, step, player, log, recording, guard)
                seconds.append(time.monotonic() - began)
        return seconds

    def close(self) -> None:
        self.pools.rollouts.close()
        for rank in self.pools.learner.ranks:
            rank.kill()


def measure(options: argparse.Namespace, jitter: float) -> list[str]:
    """Return the rows of the table for one jitter."""
    rows: list[str] = []
    for way in ("barrier", "streamed"):
        bench = Bench(options, jitter)
        # The first step warms up.
        seconds = getattr(bench, way)()[1:]
        bench.close()
        ratio = statistics.mean(seconds) / options.seconds
        rows.append(f"| {way} | {jitter:.0%} | {spread(seconds)} | {ratio:.2f} |")
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="playing, or learning, a step")
    parser.add_argument("--prompts", type=int, default=64, help="groups of a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--jitter", type=float, nargs="*", default=[0.0, 0.33, 0.67])
    options = parser.parse_args()
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    print(f"{ENGINES} engines, {RANKS} ranks, {options.prompts} groups a step")
    print("| loop | play varies by | seconds of a step | step / max(play, learn) |")
    print("|---|---|---|---|")
    for jitter in options.jitter:
        for row in measure(options, jitter):
            print(row, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
