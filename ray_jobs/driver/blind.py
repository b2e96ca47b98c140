"""Figures of blind guesses, made without reading the sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from core.evaluation.metrics import mean_j_and_f
from core.geometry import uniform_frames
from core.masks import area, boxes_areas, decode_frames, union_of_targets
from core.types import Sample, Target
from rewards.temporal import keyframe_size

# Sides of the centre box, as a share of the sides of the frame.
CENTRE = 0.5


def blind_jf(
    samples: Sequence[Sample], objects: Mapping[str, Sequence[Target]]
) -> dict[str, float]:
    """Return the mean J&F of blind guesses, in percent.

    Args:
        samples: The expressions.
        objects: All annotated objects of each video (`data.load.video_objects`). The guess
            "largest object" has the true mask, so it is stronger than any segmenter's.
    """
    largest = {}
    for uid, targets in objects.items():
        if targets:
            largest[uid] = max(targets, key=_pixels)

    scores: dict[str, list[float]] = {}
    for sample in samples:
        truth = _truth_FHW(sample)
        guesses = {
            "nothing": np.zeros_like(truth),
            "centre box": _centre_FHW(truth.shape),
            "largest object": _only_FHW(sample, largest.get(sample.video.uid)),
        }
        for name, guess in guesses.items():
            _, _, jf = mean_j_and_f(guess, truth)
            scores.setdefault(name, []).append(100 * jf)

    means = {}
    for name, values in scores.items():
        means[name] = float(np.mean(values))
    return means


def blind_temporal(samples: Sequence[Sample], num_frames: int) -> dict[str, float]:
    """Return the mean soft temporal reward (ReVSeg, Eq. 7) of blind choices of a keyframe.

    Args:
        samples: S expressions.
        num_frames: The number of uniformly sampled frames to choose from.
    """
    rewards = []
    visibles = []
    for sample in samples:
        reward_F, visible_F = _reward_of_frames(sample, num_frames)
        rewards.append(reward_F)
        visibles.append(visible_F)
    reward_SF = np.stack(rewards)
    visible_SF = np.stack(visibles)

    middle = reward_SF.shape[1] // 2
    best = int(reward_SF.mean(0).argmax())
    random_visible = []
    for reward_F, visible_F in zip(reward_SF, visible_SF, strict=True):
        if visible_F.any():
            random_visible.append(reward_F[visible_F].mean())
    return {
        "random frame": float(reward_SF.mean()),
        "middle frame": float(reward_SF[:, middle].mean()),
        f"best constant frame ({best})": float(reward_SF[:, best].mean()),
        "random visible frame (needs the target)": float(np.mean(random_visible)),
        "best frame (needs the target)": float(reward_SF.max(1).mean()),
        "share of frames in which the target is visible": float(visible_SF.mean()),
    }


def _reward_of_frames(sample: Sample, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the reward of each sampled frame as a keyframe, and whether the target is visible."""
    frames = uniform_frames(sample.video.num_frames, num_frames)
    boxes_F4, areas_F = boxes_areas(sample)
    sides_F2 = boxes_F4[frames, 2:] - boxes_F4[frames, :2]
    visible_F = torch.as_tensor(np.asarray(areas_F)[frames] > 0)
    box_areas_F = torch.as_tensor(sides_F2.prod(1))
    reward_F = keyframe_size(torch.arange(len(frames)), visible_F, box_areas_F)
    return reward_F.numpy(), visible_F.numpy()


def _truth_FHW(sample: Sample) -> np.ndarray:
    """Return the union of the targets' masks, (F, H, W) bool."""
    video = sample.video
    return decode_frames(union_of_targets(sample), video.height, video.width)


def _pixels(target: Target) -> int:
    return sum(area(rle) for rle in target.masks_F if rle is not None)


def _only_FHW(sample: Sample, target: Target | None) -> np.ndarray:
    targets = () if target is None else (target,)
    return _truth_FHW(replace(sample, targets=targets))


def _centre_FHW(shape: tuple[int, ...]) -> np.ndarray:
    _, height, width = shape
    top = round(height * (1 - CENTRE) / 2)
    left = round(width * (1 - CENTRE) / 2)
    mask_FHW = np.zeros(shape, bool)
    mask_FHW[:, top : height - top, left : width - left] = True
    return mask_FHW
