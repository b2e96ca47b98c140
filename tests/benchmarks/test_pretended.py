"""Benchmarks of what stands around engines and ranks, on a few short steps."""

from __future__ import annotations

import argparse
import gc

from benchmarks import driver, pipeline

STEPS = 2


def test_a_pipeline_of_sleeping_stages(ray_env: dict[str, str]) -> None:
    options = argparse.Namespace(seconds=0.2, prompts=4, steps=STEPS)
    bench = pipeline.Bench(options, jitter=0.0, staleness=2)
    seconds = bench.streamed()
    bench.close()
    assert len(seconds) == STEPS


def test_the_drivers_time(ray_env: dict[str, str]) -> None:
    options = argparse.Namespace(prompts=4, group=2, steps=STEPS)
    cpu, seconds = driver.seconds_of_steps(options, workers=2)
    # The driver's collector is spared.
    gc.unfreeze()
    assert len(cpu) == len(seconds) == STEPS
