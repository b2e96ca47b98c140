"""Learn time of a step, whole groups in a row against a row for each episode.

    python -m benchmarks.learn_step [PRESET] [key=value ...] [--rounds 5]

One batch of the preset is played and scored. Two pools of learners then learn from it in turns,
alike but for `learner.row_tokens`: the preset's against 1, which cuts a tree into rows of one
episode with the prompt repeated. Both do all of a step's "learn": rows, pixels, forward, backward,
gradients over the ranks, the optimizer. Prints the seconds of both and their ratio, by which
`seconds.learn` of a run is divided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import ray

from actors.learner_pool import LearnerPool
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from benchmarks.measuring import argument_parser, spread
from cluster.placement import Placement
from cluster.start import join
from configs.load import load as load_config
from configs.load import validate
from configs.schema import Config
from core.grpo import judge
from core.types import Group, Video
from data.load import load_samples
from ray_jobs.driver.run import prepare_data


def play_one_batch(cfg: Config, placement: Placement) -> tuple[list[Group], list[Video]]:
    """Return the judged groups of one step, and their videos."""
    split = cfg.data.train_split
    samples = load_samples(cfg.data.format, cfg.data.root, split, cfg.data.no_target)
    chosen = samples[: cfg.rollout.prompts_per_step]
    rollouts = RolloutPool(cfg, placement)
    scorers = RewardPool(cfg, placement, [split])
    groups = []
    videos = []
    for played in rollouts.play(chosen, group_size=cfg.rollout.group_size, temperature=1.0, step=1):
        uid = played.sample.uid
        rewards = scorers.collect(scorers.submit(split, uid, played.episodes))
        groups.append(judge(Group(uid, played.episodes, rewards)))
        videos.append(played.sample.video)
    rollouts.close()
    return groups, videos


def learn_in_turns(
    pools: Sequence[LearnerPool],
    groups: Sequence[Group],
    videos: Sequence[Video],
    rounds: int,
) -> np.ndarray:
    """Return the seconds of each pool in each round, (rounds, pools)."""
    seconds = np.zeros((rounds + 1, len(pools)))
    for number in range(rounds + 1):
        for column, pool in enumerate(pools):
            began = time.monotonic()
            pool.learn(groups, videos)
            seconds[number, column] = time.monotonic() - began
    # The first round warms both up.
    return seconds[1:]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("settings", nargs="*", default=["revseg_tiny"], help="preset and key=value")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cfg = load_config(options.settings)
    validate(cfg)
    prepare_data(cfg)
    placement = join(cfg)
    groups, videos = play_one_batch(cfg, placement)
    pools = []
    for row_tokens in (cfg.learner.row_tokens, 1):
        learner = replace(cfg.learner, row_tokens=row_tokens)
        pools.append(LearnerPool(replace(cfg, learner=learner), placement))
    trees_s, rows_s = learn_in_turns(pools, groups, videos, options.rounds).T

    print(
        f"{len(groups)} groups of {cfg.rollout.group_size} episodes, {cfg.learner.world_size} ranks"
    )
    print(f"groups in a row, s: {spread(trees_s)}")
    print(f"a row for each episode, s: {spread(rows_s)}")
    print(f"ratio: {spread(rows_s / trees_s)}")
    ray.shutdown()


if __name__ == "__main__":
    main()
