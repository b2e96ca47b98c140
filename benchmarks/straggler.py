"""Seconds of a step with a straggler, with and without repeating its groups on the other engine.

    python -m benchmarks.straggler [PRESET] [key=value ...] [--stopped 15] [--rounds 3]

Two engines play the same groups again and again. After the first result one of them is stopped
(SIGSTOP, all its processes) for some seconds. Rounds with and without repetition take turns, and so
does their order; a round without a straggler shows what either costs then. All must sample the same
tokens. Prints medians with their spread.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
import ray

from actors.rollout import RolloutPool
from benchmarks.measuring import argument_parser, spread
from cluster.start import join
from configs.load import load as load_config
from configs.load import validate
from core.types import Sample
from data.load import load_samples
from ray_jobs.driver.run import prepare_data


class SwitchedPool(RolloutPool):
    """A pool whose idle engines repeat a straggler's groups, or do not."""

    repeats = True

    def _steal(self, *arguments: Any) -> None:
        if self.repeats:
            super()._steal(*arguments)


def processes_of(pool: RolloutPool, number: int) -> list[psutil.Process]:
    """Return an actor's process and those of its engine."""
    actor = pool.workers[number].actor
    pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def signal_all(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        process.send_signal(number)


def play_once(
    pool: RolloutPool, samples: Sequence[Sample], stopped_s: float
) -> tuple[float, dict[str, Any]]:
    """Return the seconds until the last result, and the sampled tokens by sample.

    Args:
        stopped_s: seconds without the second engine, from the first result on; 0: none.
    """
    straggler = processes_of(pool, pool.up()[1])
    timer = threading.Timer(stopped_s, signal_all, (straggler, signal.SIGCONT))
    tokens: dict[str, Any] = {}
    began = time.monotonic()
    group_size = pool.cfg.rollout.group_size
    for group in pool.play(samples, group_size=group_size, temperature=1.0, step=1):
        if not tokens and stopped_s:
            signal_all(straggler, signal.SIGSTOP)
            timer.start()
        completions = []
        for episode in group.episodes:
            completions += [turn.completion_ids for turn in episode.turns]
        tokens[group.sample.uid] = completions
    seconds = time.monotonic() - began
    if stopped_s:
        timer.join()
    return seconds, tokens


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("settings", nargs="*", default=["revseg_tiny"], help="preset and key=value")
    parser.add_argument("--stopped", type=float, default=15.0, help="seconds without the engine")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cfg = load_config(options.settings)
    cfg = replace(cfg, rollout=replace(cfg.rollout, workers=2))
    validate(cfg)
    prepare_data(cfg)
    placement = join(cfg)
    samples = load_samples(cfg.data.format, cfg.data.root, cfg.data.train_split, cfg.data.no_target)
    chosen = samples[: cfg.rollout.prompts_per_step]
    pool = SwitchedPool(cfg, placement)
    pool.ready()
    _, expected = play_once(pool, chosen, 0.0)

    seconds: dict[tuple[bool, float], list[float]] = {}
    for number in range(options.rounds):
        for stopped_s in (0.0, options.stopped):
            for repeats in (number % 2 == 0, number % 2 == 1):
                pool.repeats = repeats
                spent, tokens = play_once(pool, chosen, stopped_s)
                assert tokens == expected, "the tokens depend on the engine"
                seconds.setdefault((repeats, stopped_s), []).append(spent)
    pool.close()

    print(f"{options.rounds} rounds of {len(chosen)} groups on 2 engines, seconds of a step")
    print("| | with repetition | without | with / without |\n|---|---|---|---|")
    for stopped_s in (0.0, options.stopped):
        ours = seconds[True, stopped_s]
        plain = seconds[False, stopped_s]
        ratio = statistics.median(ours) / statistics.median(plain)
        name = f"one engine stopped for {stopped_s:g} s" if stopped_s else "undisturbed"
        print(f"| {name} | {spread(ours)} | {spread(plain)} | {ratio:.2f} |")
    ray.shutdown()


if __name__ == "__main__":
    main()
