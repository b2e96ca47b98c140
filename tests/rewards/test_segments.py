"""Rewards of masks: the ladders by hand and at their edges, the slip of the release, and a plain implementation."""

import numpy as np
import pytest
import torch

from rewards.segments import gain_over_turns, gain_over_video, iou_reward, mask_iou

MODES = ["as_released", "as_intended"]


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_mask_iou():
    masks = torch.tensor(
        [[[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]]
    ).bool()
    truth = torch.tensor(
        [[[1, 0], [1, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    ).bool()
    assert mask_iou(masks, truth, 1.0).tolist() == pytest.approx([1 / 3, 1, 1, 0])
    assert mask_iou(masks, truth, torch.tensor([0.0, 0, 0, 0])).tolist() == pytest.approx(
        [1 / 3, 1, 0, 0]
    )


@pytest.mark.parametrize(
    "iou, worth",
    [(0, -1), (0.2, -1), (0.21, 0), (0.4, 0), (0.5, 0.3), (0.7, 0.9), (0.9, 1.5), (1, 1.5)],
)
def test_ladder_of_iou(iou, worth):
    assert iou_reward(f64([[iou]])).item() == pytest.approx(worth)


def test_frames_are_averaged_after_the_ladder():
    assert iou_reward(f64([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([0.25, 0.3])


@pytest.mark.parametrize(
    "gain, released, intended",
    [
        (0.6, 0.5, 2),
        (0.4, 0.5, 1.5),
        (0.25, 0.5, 0.75),
        (0.15, 0.5, 0.5),
        (0.0, 0, 0),
        (-0.04, 0, 0),
        (-0.5, -1, -1),
    ],
)
def test_gain_over_video(gain, released, intended):
    for mode, worth in zip(MODES, (released, intended), strict=True):
        assert gain_over_video(
            f64([0.5 + gain]), f64([0.5]), torch.tensor([2]), mode
        ).item() == pytest.approx(worth)
        assert gain_over_video(f64([0.5 + gain]), f64([0.5]), torch.tensor([1]), mode).item() == 0


@pytest.mark.parametrize(
    "gain, released, intended",
    [
        (0.4, 0.5, 2),
        (0.2, 0.5, 1.5),
        (0.125, 0.5, 0.75),
        (0.07, 0.5, 0.5),
        (0.0, 0, 0),
        (-0.04, 0, 0),
        (-0.3, -1, -1),
    ],
)
def test_gain_over_turns(gain, released, intended):
    for mode, worth in zip(MODES, (released, intended), strict=True):
        key_GT = f64([[0.1, 0.5, 0.5 + gain], [0.5, 0.5 + gain, 9.0], [0.3, 9.0, 9.0]])
        assert gain_over_turns(key_GT, torch.tensor([3, 2, 1]), mode).tolist() == pytest.approx(
            [worth, worth, 0]
        )


def ladder(gain: float, steps, mode: str) -> float:
    """As the released code is written, line by line; the slip is the second `if`."""
    upper, slope, middle = steps
    if gain > upper:
        score = min(slope * (gain - middle), 2)
        if mode == "as_intended":
            return score
    if gain > middle:
        score = 0.5
    elif gain > -0.05:
        score = 0.0
    else:
        score = -1.0
    return score


def plain_iou_reward(ious: list[float]) -> float:
    return sum(min(3 * (x - 0.4), 1.5) if x > 0.4 else 0 if x > 0.2 else -1 for x in ious) / len(
        ious
    )


@pytest.mark.parametrize("mode", MODES)
def test_against_a_plain_implementation(mode):
    rng = np.random.default_rng(1)
    for _ in range(50):
        groups, turns, frames = (int(n) for n in rng.integers(1, 6, 3))
        key = rng.random((groups, turns))
        video = rng.random((groups, frames))
        count = rng.integers(1, turns + 1, groups)
        last = [key[g, n - 1] for g, n in enumerate(count)]
        wanted = [
            ladder(a - v.mean(), (0.2, 5, 0.1), mode) if n > 1 else 0
            for a, v, n in zip(last, video, count, strict=True)
        ]
        got = gain_over_video(f64(last), f64(video).mean(dim=1), torch.tensor(count), mode)
        assert got.tolist() == pytest.approx(wanted)
        wanted = [
            ladder(key[g, n - 1] - max(key[g, : n - 1]), (0.1, 10, 0.05), mode) if n > 1 else 0
            for g, n in enumerate(count)
        ]
        assert gain_over_turns(f64(key), torch.tensor(count), mode).tolist() == pytest.approx(
            wanted
        )
        assert iou_reward(f64(video)).tolist() == pytest.approx(
            [plain_iou_reward(row) for row in video.tolist()]
        )
