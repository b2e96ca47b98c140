"""Learn time of a step, whole groups in a row against a row for each episode: `python benchmarks/learn_step.py`.

One batch of the preset is played and scored; two pools of learners, alike but for `learner.row_tokens` (the preset's
against 1, which cuts a tree into rows of one episode with the prompt repeated), then learn from it in turns. Both do
all that a step's "learn" does: rows, pixels, forward, backward, gradients over the ranks, the optimizer. Prints the
seconds of both and their ratio, which is what `seconds.learn` of a run is divided by.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import ray

from actors.learner_pool import LearnerPool
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from cluster.start import join
from configs.load import load as load_config
from configs.load import validate
from core.grpo import judge
from core.types import Group
from ray_jobs.driver.run import prepare_data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", default=["revseg_tiny"], help="preset and key=value")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cfg = load_config(options.settings)
    validate(cfg)
    prepare_data(cfg)
    from data.load import load_samples

    placement = join(cfg)
    split = cfg.data.train_split
    samples = load_samples(cfg.data.format, cfg.data.root, split, cfg.data.no_target)[
        : cfg.rollout.prompts_per_step
    ]
    rollouts = RolloutPool(cfg, placement)
    rewards = RewardPool(cfg, placement, [split])
    played = list(
        rollouts.play(samples, group_size=cfg.rollout.group_size, temperature=1.0, step=1)
    )
    scored = [rewards.collect(rewards.submit(split, p.sample.uid, p.episodes)) for p in played]
    groups = [
        judge(Group(p.sample.uid, p.episodes, r)) for p, r in zip(played, scored, strict=True)
    ]
    media = [ray.get(p.media_ref) for p in played]
    rollouts.close()
    budgets = (cfg.learner.row_tokens, 1)
    pools = [
        LearnerPool(replace(cfg, learner=replace(cfg.learner, row_tokens=budget)), placement)
        for budget in budgets
    ]
    seconds: list[list[float]] = []
    for _ in range(options.rounds + 1):
        now = []
        for pool in pools:
            begin = time.monotonic()
            pool.learn(groups, media)
            now.append(time.monotonic() - begin)
        seconds.append(now)
    tree, rows = zip(*seconds[1:], strict=True)  # the first round warms both up
    ratios = [r / t for t, r in zip(tree, rows, strict=True)]
    print(
        f"{len(groups)} groups of {cfg.rollout.group_size} episodes, {cfg.learner.world_size} ranks"
    )
    for name, values in (
        ("groups in a row, s", tree),
        ("a row for each episode, s", rows),
        ("ratio", ratios),
    ):
        print(f"{name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    ray.shutdown()


if __name__ == "__main__":
    main()
