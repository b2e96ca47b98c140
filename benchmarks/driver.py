"""CPU time of the driver for each trajectory, with simulated workers behind the real pools.

    python -m benchmarks.driver [--workers 8 100 1000] [--prompts 128] [--group 8] [--steps 2]

The driver runs `ray_jobs.train.train_step` with its real pools, group log, packing and record, on
trajectories of real length: two turns, 16 images and a keyframe, 5,200 prompt tokens and 1,152
sampled ones. A few processes stand for all workers: an engine returns episodes that are there
already, a reward actor knows every reward, and a rank of the learner counts what it is sent. So
what the driver pays for a call is real, and what a worker does is nothing. The watch over the
actors is off: it works by the second, not by the trajectory.

What counts is the CPU time of the driver's whole process from the beginning of a step to its end,
with all threads: the loop, the player, those of Ray, and the kernel's time for files and sockets;
divided by the trajectories of the step. So the calls that bring new weights to every worker count
too, whose number is that of the workers, not of the trajectories. Not counted: other processes,
such as Ray's raylet, and what engines do for the driver (the JSON of the group log, the packing of
what reward actors read). The first step is not counted. CPU time, unlike seconds, does not count
other work on the machine, but it grows with it: caches and memory are shared.

Then, without Ray, one process shows the frames of a step and another one reads them as a rank does,
with a store of decoded frames that is sized to the step and with one that is smaller: how often is
a shown frame decoded?
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import ray

from actors.reward import GroupRewards, RewardActor, RewardPool
from actors.rollout import GroupPlay, RolloutActor, RolloutPool, group_play
from benchmarks.measuring import argument_parser, spread
from benchmarks.pretended import PretendedEngine, PretendedLearner, PretendedRank, Silent
from cluster.environment import store_env
from cluster.lost import Deaths
from cluster.refs import Handle, start_actor
from cluster.watch import Limits, Watch
from configs.load import load as load_config
from configs.load import resolve
from configs.schema import Config
from core.batch import Tree
from core.collector import spare_collector
from core.shared_file import FRAME_STORE
from core.types import (
    Answer,
    End,
    Episode,
    MaskPrompt,
    Media,
    MediaSource,
    Reward,
    Sample,
    Turn,
    Video,
    View,
)
from data.frames.shown import media_of, read_shown
from data.mixing import MixedSet, make_mix
from models.dialogue import load_dialogue
from ray_jobs.driver.guard import Guard
from ray_jobs.driver.masking import PointingPolicy
from ray_jobs.driver.player import Player
from ray_jobs.driver.recording import Recording
from ray_jobs.driver.requests import Requests
from ray_jobs.driver.sampling import Draws
from ray_jobs.record.group_log import GroupLog
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.record.words import Words
from ray_jobs.train import train_step

RANKS = 8
# Processes that stand for all engines, and for all ranks.
PROCESSES = 2
# Tensors of a policy of 7B.
TENSORS = 729
IMAGES = 16
WORDS = " ".join(["the mark on the left"] * 110)
# Frames of the second part: those of a JPEG, and how many groups there are.
HEIGHT, WIDTH = 480, 854
VIDEOS = 24
FRAMES = 24
IMAGE_ID = 151655


class CannedEngine(PretendedEngine):
    """Returns episodes of real length at once."""

    def __init__(self, group_size: int) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        shown = tuple(Media(f"{number:032x}", View(number, 448, 448)) for number in range(IMAGES))
        first: list[int] = []
        for _ in shown:
            first += [*rng.integers(0, 150_000, 12).tolist(), *[IMAGE_ID] * 256]
        self.episodes: list[Episode] = []
        for number in range(group_size):
            keyframe = Media(f"key{number:029x}", View(number, 840, 840))
            second = [1, 2, *[IMAGE_ID] * 900, 3, 4]
            turns: list[Turn] = []
            for prompt, media in ((first, shown), (second, (keyframe,))):
                ids = tuple(rng.integers(0, 150_000, 576).tolist())
                logprobs = tuple((-rng.random(576)).tolist())
                turns.append(Turn(tuple(prompt), ids, logprobs, WORDS, media, True, 0))
            box = MaskPrompt(3, (1.0, 2.0, 3.0, 4.0), ((2.0, 3.0),), (1,))
            answer = Answer((box,), {"temporal": 0.5}, keyframe=3, reasoning_tokens=100)
            self.episodes.append(Episode("", tuple(turns), End.DONE, answer))

    async def play_group(
        self, sample: Sample, group_size: int, temperature: float, key: Any, logged: bool
    ) -> GroupPlay:
        played: list[Episode] = []
        for each in self.episodes:
            turns: list[Turn] = []
            for turn in each.turns:
                values = (turn.logprobs, turn.text, turn.media, True, self.newest)
                turns.append(Turn(turn.prompt_ids, turn.completion_ids, *values))
            played.append(Episode(sample.uid, tuple(turns), End.DONE, each.answer, seconds=1.0))
        return group_play(played, logged)


class CannedJudge:
    """Gives every group the same rewards, which differ."""

    def score(
        self, split: str, uid: str, episodes: Sequence[Episode], drawn: None = None
    ) -> GroupRewards:
        rewards: list[Reward | None] = []
        for number in range(len(episodes)):
            parts = {"format": 1.0, "temporal": 0.1 * number, "spatial": 0.5}
            rewards.append(Reward(sum(parts.values()), parts, (1.0, parts["temporal"])))
        return tuple(rewards)


class CountingRank(PretendedRank):
    """Counts the tokens and the bytes of pixels that it is sent.

    Its versions are described as those of a policy of 7B.
    """

    described = (
        tuple(f"model.language_model.layers.{number}.weight" for number in range(TENSORS)),
        ("bfloat16",) * TENSORS,
        ((3584, 3584),) * TENSORS,
        tuple(f"{number:032x}" for number in range(TENSORS)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        self.pixel_bytes = 0

    def add(
        self, rows: Sequence[Sequence[Tree]], sources: Mapping[int, MediaSource], *_: Any
    ) -> None:
        for row in rows:
            self.tokens += sum(tree.tokens for tree in row)
        for source in sources.values():
            if isinstance(source, dict):
                self.pixel_bytes += sum(image_HWC.nbytes for image_HWC in source.values())

    def counted(self) -> tuple[int, int]:
        return self.tokens, self.pixel_bytes


class ManyRollouts(RolloutPool):
    """The pool of rollout actors: many workers, each one of a few processes."""

    def __init__(self, cfg: Config, placement: Any) -> None:
        self.processes: list[Any] = []
        for _ in range(PROCESSES):
            started = start_actor(CannedEngine, {"num_cpus": 0}, cfg.rollout.group_size)
            self.processes.append(started.actor)
        super().__init__(cfg, placement)

    def start(self, number: int) -> Handle[RolloutActor]:
        return Handle(self.processes[number % PROCESSES])


class OneJudge(RewardPool):
    """The pool of reward actors, with one that knows every reward."""

    def start(self, number: int) -> Handle[RewardActor]:
        return cast(Handle[RewardActor], start_actor(CannedJudge, {"num_cpus": 0}))


def few_ranks(cfg: Config) -> PretendedLearner:
    """Return the pool of the learner: several ranks, each one of a few processes."""
    processes = [start_actor(CountingRank, {"num_cpus": 0}) for _ in range(PROCESSES)]
    ranks: list[Handle[Any]] = []
    for number in range(RANKS):
        ranks.append(Handle(processes[number % PROCESSES].actor))
    return PretendedLearner(cfg, quiet_watch(), ranks)


def quiet_watch() -> Watch:
    return Watch(limits=Limits(hang_s=0.0))


def settings(options: argparse.Namespace, workers: int) -> Config:
    return load_config(
        [
            "revseg_tiny",
            f"train.steps={options.steps}",
            f"rollout.workers={workers}",
            f"rollout.prompts_per_step={options.prompts}",
            f"rollout.group_size={options.group}",
            f"rollout.max_num_seqs={4 * options.group}",
            "rollout.max_model_len=16384",
            "train.max_logprob_gap=99",
            f"learner.world_size={RANKS}",
            "learner.row_tokens=32768",
        ]
    )


def seconds_of_steps(options: argparse.Namespace, workers: int) -> tuple[list[float], list[float]]:
    """Run steps with so many workers; return CPU seconds and seconds of each."""
    cfg = settings(options, workers)
    placement: Any = SimpleNamespace(
        device="cpu", watch=quiet_watch(), runtime_env={}, count=lambda kind, count: count
    )
    pools: Any = SimpleNamespace(
        rollouts=ManyRollouts(cfg, placement),
        rewards=OneJudge(cfg, placement, ["train"]),
        learner=few_ranks(cfg),
    )
    pools.rollouts.ready()
    samples: list[Sample] = []
    for number in range(options.prompts * (options.steps + 1)):
        video = Video(str(number), "nowhere", tuple(f"{frame:05d}" for frame in range(80)), 4, 4)
        samples.append(Sample(str(number), video, "the one that moves", ()))

    silent: Any = Silent()
    with tempfile.TemporaryDirectory() as home:
        record = RunFolder.open(Path(home) / "run", "")
        run: Any = SimpleNamespace(
            cfg=cfg, record=record, progress=silent, requests=Requests(), placement=placement
        )
        words = words_of(cfg, samples)
        keeping: Any = SimpleNamespace(words=words, step=lambda *_: None, forget_after=lambda _: 0)
        recording = Recording.open(record, silent, silent, Deaths(lambda _: None), keeping)
        log = GroupLog.open(record.path / "groups", "driver")
        guard = Guard(cfg, record.checkpoints)
        draws = Draws(make_mix([MixedSet("", samples)], cfg.seed), options.prompts)
        masking = PointingPolicy(pools)
        player = Player(run, pools, masking, log, draws, recording, 1, options.steps)
        cpu: list[float] = []
        seconds: list[float] = []
        spare_collector()
        for step in range(1, options.steps + 1):
            began = time.process_time(), time.monotonic()
            train_step(run, pools, masking, step, player, log, recording, guard)
            cpu.append(time.process_time() - began[0])
            seconds.append(time.monotonic() - began[1])
        player.finish()

    counted = ray.get([rank.actor.counted.remote() for rank in pools.learner.ranks[:PROCESSES]])
    tokens = sum(count for count, _ in counted)
    pixel_bytes = sum(count for _, count in counted)
    trajectories = options.steps * options.prompts * options.group
    print(
        f"  sent to the ranks for each trajectory: {tokens / trajectories:.0f} tokens, "
        f"{pixel_bytes / trajectories:.0f} bytes of pixels"
    )
    pools.rollouts.close()
    pools.rewards.close()
    pools.learner.kill()
    return cpu, seconds


def words_of(cfg: Config, samples: Sequence[Sample]) -> Words:
    """Return the words of the samples; the tokenizer is small, so unknown ids read as nothing."""
    dialogue = load_dialogue(resolve(cfg.policy.path))
    return Words({sample.uid: sample for sample in samples}, dialogue.tokenizer, IMAGE_ID)


def make_videos(home: Path) -> list[Video]:
    """Write folders of JPEGs."""
    videos: list[Video] = []
    names = tuple(f"{frame:05d}" for frame in range(FRAMES))
    for number in range(VIDEOS):
        folder = home / str(number)
        folder.mkdir()
        small = np.random.default_rng(number).integers(0, 256, (30, 54, 3), dtype=np.uint8)
        image_HWC = cv2.resize(small, (WIDTH, HEIGHT))
        for name in names:
            cv2.imwrite(str(folder / f"{name}.jpg"), image_HWC)
        videos.append(Video(str(number), str(folder), names, HEIGHT, WIDTH))
    return videos


def show_all(home: str) -> None:
    """Be an engine, then wait: show all frames, print how many were decoded."""
    from data.frames.frame_store import node_store
    from data.frames.reading import show_views

    shown: dict[str, list[Any]] = {}
    for folder in sorted(Path(home).iterdir()):
        names = tuple(sorted(file.stem for file in folder.iterdir()))
        video = Video(folder.name, str(folder), names, HEIGHT, WIDTH)
        views = [View(frame, 448, 448) for frame in range(len(names))]
        shown[folder.name] = [media.digest for media, _ in show_views(video, views)]
    print(json.dumps({"decoded": node_store().added, "digests": shown}), flush=True)
    # The store is emptied when the last process leaves it.
    sys.stdin.read()


def decodes(videos: Sequence[Video], home: Path, store_bytes: int) -> float:
    """Return how often a shown frame is decoded on a node with a store of this size."""
    # A store of its own: that of the node may be in use.
    place = tempfile.mkdtemp(dir=home.parent)
    environment = {**os.environ, FRAME_STORE: str(store_bytes), "TMPDIR": place}
    code = (
        "import pathlib, sys; from data.frames import frame_store; "
        f"frame_store.CAPACITY = {store_bytes}; "
        "frame_store.SHARED_MEMORY = pathlib.Path('/none'); "
        "from benchmarks import driver; getattr(driver, sys.argv[1])(*sys.argv[2:])"
    )
    command = [sys.executable, "-c", code]
    engine = subprocess.Popen(
        [*command, "show_all", str(home)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engine.stdin is not None
    assert engine.stdout is not None
    shown = json.loads(engine.stdout.readline())
    asked = json.dumps(shown["digests"])
    rank = subprocess.run(
        [*command, "read_all", str(home), asked],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    engine.stdin.close()
    engine.wait()
    decoded = shown["decoded"] + int(rank.stdout.splitlines()[-1])
    return float(decoded / (len(videos) * FRAMES))


def read_all(home: str, asked: str) -> None:
    """Be a rank: read all shown frames, print how many were decoded again."""
    from data.frames.frame_store import node_store

    for name, digests in json.loads(asked).items():
        folder = Path(home) / name
        names = tuple(sorted(file.stem for file in folder.iterdir()))
        video = Video(name, str(folder), names, HEIGHT, WIDTH)
        media = tuple(Media(digest, View(frame, 448, 448)) for frame, digest in enumerate(digests))
        turn = Turn((), (), (), "", media, True, 0)
        read_shown(video, media_of([Episode("", (turn,), End.DONE)]))
    print(node_store().added)


def print_decodes() -> None:
    """Print the decodes of a shown frame with stores of two sizes."""
    step = VIDEOS * FRAMES * HEIGHT * WIDTH * 3
    sized = int(store_env(VIDEOS)[FRAME_STORE])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "videos"
        home.mkdir()
        videos = make_videos(home)
        print(f"frames of a step: {step / 1e6:.0f} MB")
        for name, size in (("sized to the step", sized), ("a quarter of it", step // 4)):
            found = decodes(videos, home, size)
            print(f"  store {name}, {size / 1e6:.0f} MB: {found:.2f} decodes a shown frame")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--prompts", type=int, default=128, help="groups of a step")
    parser.add_argument("--group", type=int, default=8, help="episodes of a group")
    parser.add_argument("--steps", type=int, default=3, help="the first one is not counted")
    options = parser.parse_args()
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    trajectories = options.prompts * options.group
    print(f"{options.prompts} groups of {options.group}, {RANKS} ranks: CPU ms a trajectory")
    for workers in options.workers:
        cpu, seconds = seconds_of_steps(options, workers)
        each = [1e3 * spent / trajectories for spent in cpu[1:]]
        step_s = statistics.median(seconds[1:])
        print(f"  {workers} workers: {spread(each)}, a step takes {step_s:.1f} s", flush=True)
    ray.shutdown()
    print_decodes()


if __name__ == "__main__":
    main()
