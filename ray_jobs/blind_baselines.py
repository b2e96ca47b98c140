"""Measure blind guesses, without reading the sentence: the floor of every learning figure.

    python -m ray_jobs.blind_baselines revseg_tiny [data.root=...]

The table shows the soft temporal reward of blind keyframes (ReVSeg, Eq. 7) and the J&F of blind
masks. A policy shows reasoning only above the best of them. Without this table a collapse to one
frame looks like learning.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from configs.load import load as load_config
from data.bounds import allow_pixels
from data.holdout import HOLDOUT
from data.load import load_samples, video_objects
from ray_jobs.driver.blind import blind_jf, blind_temporal
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.run import prepare_data


def main(argv: Sequence[str]) -> None:
    cfg = load_config(argv)
    prepare_data(cfg)
    data = cfg.data
    allow_pixels(data.max_pixels)
    num_frames = int(cfg.system.options.get("num_frames", 16))
    for split in dict.fromkeys([data.train_split, data.eval_split, data.test_split]):
        if split == HOLDOUT:
            continue
        samples = load_samples(data.format, data.root, split, data.no_target)
        objects = video_objects(data.format, data.root, split)

        table = Table("blind guess", "value", title=f"{split}: {len(samples)} expressions")
        for name, value in blind_temporal(samples, num_frames).items():
            table.add_row(f"soft temporal reward, {name}", f"{value:.3f}")
        for name, value in blind_jf(samples, objects).items():
            table.add_row(f"J&F, {name}", f"{value:.1f}")
        Console().print(table)


if __name__ == "__main__":
    run_job(main)
