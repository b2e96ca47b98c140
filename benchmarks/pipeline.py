"""Seconds of a training step with simulated stages behind the real pools, loop and group log.

    python -m benchmarks.pipeline [--seconds 6] [--prompts 128] [--steps 5] [--jitter 0 0.33 0.67]

Three engines and four ranks sleep: an engine plays one group after another, each for a random time
around the mean, and a rank learns a row for a constant time. Playing a step and learning it take
the same time on average. `barrier` is the loop before groups were streamed: a step is played to its
end, then learned; `barrier, ahead` plays the next step meanwhile. `k=0` and `k=2` are `train_step`
with that `rollout.max_staleness`. Prints the seconds of a step, and their mean relative to the
longer one of play and learn.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import ray

from actors.rollout import GroupPlay, Played, RolloutActor, RolloutPool, group_play
from benchmarks.measuring import argument_parser, spread
from benchmarks.pretended import PretendedEngine, PretendedLearner, PretendedRank, Silent
from cluster.lost import Deaths
from cluster.refs import Handle, start_actor
from cluster.watch import Watch
from configs.load import load as load_config
from configs.schema import Config
from core.grpo import judge
from core.types import Answer, End, Episode, Group, Reward, Sample, Turn, Video
from data.mixing import MixedSet, make_mix
from ray_jobs.driver.guard import Guard
from ray_jobs.driver.masking import PointingPolicy
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


class SleepingEngine(PretendedEngine):
    """Plays by sleeping, one group after another."""

    def __init__(self, seconds: float, jitter: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.jitter = jitter
        self.one = asyncio.Lock()

    async def play_group(
        self, sample: Sample, group_size: int, temperature: float, key: Any, logged: bool
    ) -> GroupPlay:
        rng = np.random.default_rng([key[1], int(sample.uid)])
        async with self.one:
            await asyncio.sleep(self.seconds * rng.uniform(1 - self.jitter, 1 + self.jitter))
            turn = Turn(PROMPT, ANSWER, (-0.5,) * len(ANSWER), "", (), True, self.newest)
        episode = Episode(sample.uid, (turn,), End.DONE, Answer())
        return group_play((episode,) * group_size, logged)


class SleepingRank(PretendedRank):
    """Learns a row by sleeping."""

    def __init__(self, row_seconds: float) -> None:
        super().__init__()
        self.row_seconds = row_seconds

    def add(self, rows: Sequence[Any], *_: Any) -> None:
        time.sleep(self.row_seconds * len(rows))
        self.seconds += self.row_seconds * len(rows)


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


def sleeping_learner(cfg: Config, seconds: float) -> PretendedLearner:
    """Return the pool of the learner, with ranks that sleep."""
    ranks = [start_actor(SleepingRank, {"num_cpus": 0}, seconds) for _ in range(RANKS)]
    return PretendedLearner(cfg, Watch(), ranks)


class Rewards:
    """Rewards that cost nothing."""

    def submit(
        self, split: str, uid: str, episodes: Sequence[Episode], **_: Any
    ) -> Sequence[Episode]:
        return episodes

    def collect(self, episodes: Sequence[Episode]) -> tuple[Reward, ...]:
        return tuple(Reward(float(number), {}) for number in range(len(episodes)))


def settings(options: argparse.Namespace, staleness: int) -> Config:
    """Return the configuration of the simulated run."""
    return load_config(
        [
            "revseg_tiny",
            f"train.steps={options.steps}",
            f"rollout.workers={ENGINES}",
            f"rollout.prompts_per_step={options.prompts}",
            f"rollout.max_staleness={staleness}",
            "rollout.group_size=2",
            # One group at a time; three wait for it in an engine's queue.
            "rollout.max_num_seqs=2",
            "train.max_logprob_gap=99",
            f"learner.world_size={RANKS}",
            f"learner.row_tokens={ROW_TOKENS}",
        ]
    )


class Bench:
    """One run with simulated stages."""

    def __init__(self, options: argparse.Namespace, jitter: float, staleness: int) -> None:
        """Start the pools.

        Args:
            jitter: largest deviation of a group's seconds, as a share of their mean.
        """
        self.cfg = settings(options, staleness)
        self.steps = range(1, options.steps + 1)
        # Means: all groups by three engines, and all rows by four ranks.
        play_s = options.seconds * ENGINES / options.prompts
        learn_s = options.seconds * RANKS / options.prompts
        self.pools: Any = SimpleNamespace(
            rollouts=SleepingRollouts(self.cfg, play_s, jitter),
            learner=sleeping_learner(self.cfg, learn_s),
            rewards=Rewards(),
        )
        self.pools.rollouts.ready()
        self.samples: list[Sample] = []
        for number in range(options.prompts * (options.steps + 2)):
            video = Video(str(number), "nowhere", ("0",), 4, 4)
            self.samples.append(Sample(str(number), video, "", ()))

    def draws(self) -> Draws:
        mix = make_mix([MixedSet("", self.samples)], self.cfg.seed)
        rollout = self.cfg.rollout
        return Draws(mix, rollout.prompts_per_step, ahead=rollout.max_staleness)

    def barrier(self) -> list[float]:
        """Play each step to its end, then learn it."""
        draws = self.draws()
        seconds: list[float] = []
        for step in self.steps:
            began = time.monotonic()
            self.learn(step, self.play(draws.of_step(step), step))
            seconds.append(time.monotonic() - began)
        return seconds

    def barrier_ahead(self) -> list[float]:
        """Play each step to its end, while the one before is learned."""
        draws = self.draws()
        seconds: list[float] = []
        with ThreadPoolExecutor(max_workers=1) as thread:
            ahead = thread.submit(self.play, draws.of_step(1), 1)
            for step in self.steps:
                began = time.monotonic()
                played = ahead.result()
                ahead = thread.submit(self.play, draws.of_step(step + 1), step + 1)
                self.learn(step, played)
                seconds.append(time.monotonic() - began)
        return seconds

    def play(self, samples: Sequence[Sample], step: int) -> list[Played]:
        """Play a step to its end."""
        rollout = self.cfg.rollout
        played = self.pools.rollouts.play(
            samples,
            group_size=rollout.group_size,
            temperature=rollout.temperature,
            step=step,
            training=True,
        )
        return sorted(played, key=lambda group: group.index)

    def learn(self, step: int, played: Sequence[Played]) -> None:
        """Learn a whole step and publish it."""
        groups: list[Group] = []
        for group in played:
            rewards = self.pools.rewards.collect(group.episodes)
            groups.append(judge(Group(group.sample.uid, group.episodes, rewards)))
        self.pools.learner.learn(groups, [group.sample.video for group in played])
        self.pools.rollouts.take(self.pools.learner.publish(step))

    def streamed(self) -> list[float]:
        """Run the steps of `ray_jobs.train`."""
        silent: Any = Silent()
        seconds: list[float] = []
        with tempfile.TemporaryDirectory() as home:
            record = RunFolder.open(Path(home) / "run", "")
            run: Any = SimpleNamespace(
                cfg=self.cfg,
                record=record,
                progress=silent,
                requests=Requests(),
                placement=SimpleNamespace(runtime_env={}, watch=self.pools.rollouts.watch),
            )
            masking = PointingPolicy(self.pools)
            log = GroupLog.open(record.path / "groups", "pipeline")
            recording = Recording.open(record, silent, silent, Deaths(lambda text: None))
            guard = Guard(self.cfg, record.checkpoints)
            last = self.cfg.train.steps
            player = Player(run, self.pools, masking, log, self.draws(), recording, 1, last)
            for step in self.steps:
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
    ways = {
        "barrier": (Bench.barrier, 0),
        "k=0": (Bench.streamed, 0),
        "barrier, ahead": (Bench.barrier_ahead, 1),
        "k=2": (Bench.streamed, 2),
    }
    rows: list[str] = []
    for name, (run, staleness) in ways.items():
        bench = Bench(options, jitter, staleness)
        # The first step begins without anything to learn.
        seconds = run(bench)[1:]
        bench.close()
        ratio = statistics.mean(seconds) / options.seconds
        rows.append(f"| {name} | {jitter:.0%} | {spread(seconds)} | {ratio:.2f} |")
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="playing, or learning, a step")
    # As in `revseg_7b`.
    parser.add_argument("--prompts", type=int, default=128, help="groups of a step")
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
