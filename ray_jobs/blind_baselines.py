"""What can be had without reading the sentence: the floor that every learning figure is held against.

    python -m ray_jobs.blind_baselines revseg_tiny [data.root=...]

Blind keyframes (soft temporal reward, ReVSeg Eq. 7) and blind masks (J&F): an answer must beat the best of them
before it shows any reasoning. A policy that collapses to one frame looks like learning without this table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from configs.load import load as load_config
from core.evaluation.metrics import mean_j_and_f
from core.geometry import uniform_frames
from core.masks import area, boxes_areas
from core.types import Sample, Target
from data.load import load as load_samples
from data.load import video_objects
from ray_jobs.driver.evaluation import truth_FHW
from ray_jobs.driver.session import prepare_data, run_job
from rewards.temporal import keyframe_size

CENTRE = 0.5  # side of the centre box, of the frame's


def blind_jf(
    samples: Sequence[Sample], objects: Mapping[str, Sequence[Target]]
) -> dict[str, float]:
    """Mean J&F in percent of answers that look at no sentence, over the samples.

    `objects`: all annotated objects of each video (`data.load.video_objects`). The largest one gets its true mask, so
    that guess is stronger than any segmenter's.
    """
    largest = {uid: max(targets, key=_pixels) for uid, targets in objects.items() if targets}
    scores: dict[str, list[float]] = {"nothing": [], "centre box": [], "largest object": []}
    for sample in samples:
        truth = truth_FHW(sample)
        guesses = {
            "nothing": np.zeros_like(truth),
            "centre box": _centre_FHW(truth.shape),
            "largest object": _only_FHW(sample, largest.get(sample.video.uid)),
        }
        for name, guess in guesses.items():
            scores[name].append(100 * mean_j_and_f(guess, truth)[2])
    return {name: float(np.mean(values)) for name, values in scores.items()}


def blind_temporal(samples: Sequence[Sample], num_frames: int) -> dict[str, float]:
    """Mean soft temporal reward of blind choices among `num_frames` uniformly sampled frames."""
    reward_SF = []
    visible_SF = []
    for sample in samples:
        frames = uniform_frames(sample.video.num_frames, num_frames)
        boxes_F4, areas_F = boxes_areas(sample)
        sides = boxes_F4[frames, 2:] - boxes_F4[frames, :2]
        visible = torch.as_tensor(np.asarray(areas_F)[frames] > 0)
        reward_SF.append(
            keyframe_size(
                torch.arange(len(frames)), visible, torch.as_tensor(sides.prod(1))
            ).numpy()
        )
        visible_SF.append(visible.numpy())
    reward = np.stack(reward_SF)
    visible_share = np.stack(visible_SF)
    best = int(reward.mean(0).argmax())
    random_visible = [r[v].mean() for r, v in zip(reward, visible_share, strict=True) if v.any()]
    return {
        "random frame": float(reward.mean()),
        "middle frame": float(reward[:, reward.shape[1] // 2].mean()),
        f"best constant frame ({best})": float(reward[:, best].mean()),
        "random visible frame (needs the target)": float(np.mean(random_visible)),
        "best frame (needs the target)": float(reward.max(1).mean()),
        "share of frames in which the target is visible": float(visible_share.mean()),
    }


def _pixels(target: Target) -> int:
    return sum(area(rle) for rle in target.masks_F if rle is not None)


def _only_FHW(sample: Sample, target: Target | None) -> np.ndarray:
    return truth_FHW(replace(sample, targets=() if target is None else (target,)))


def _centre_FHW(shape: tuple[int, ...]) -> np.ndarray:
    _, height, width = shape
    mask = np.zeros(shape, bool)
    top = round(height * (1 - CENTRE) / 2)
    left = round(width * (1 - CENTRE) / 2)
    mask[:, top : height - top, left : width - left] = True
    return mask


def main(argv: Sequence[str]) -> None:
    cfg = load_config(argv)
    prepare_data(cfg)
    num_frames = int(cfg.system.options.get("num_frames", 16))
    for split in (cfg.data.train_split, cfg.data.eval_split, cfg.data.test_split):
        samples = load_samples(cfg.data.format, cfg.data.root, split, cfg.data.no_target)
        table = Table("blind guess", "value", title=f"{split}: {len(samples)} expressions")
        for name, value in blind_temporal(samples, num_frames).items():
            table.add_row(f"soft temporal reward, {name}", f"{value:.3f}")
        for name, value in blind_jf(
            samples, video_objects(cfg.data.format, cfg.data.root, split)
        ).items():
            table.add_row(f"J&F, {name}", f"{value:.1f}")
        Console().print(table)


if __name__ == "__main__":
    run_job(main)
