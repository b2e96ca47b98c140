"""Rewards for masks: the ladders by hand and at their edges, and against a plain implementation."""

import numpy as np
import pytest
import torch

from rewards.reward_mode import RewardMode
from rewards.segments import gain_over_turns, gain_over_video, iou_reward

MODES: tuple[RewardMode, RewardMode] = ("as_released", "as_intended")


def f64(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("iou", "worth"),
    [(0, -1), (0.2, -1), (0.21, 0), (0.4, 0), (0.5, 0.3), (0.7, 0.9), (0.9, 1.5), (1, 1.5)],
)
def test_ladder_of_iou(iou: float, worth: float) -> None:
    assert iou_reward(f64([[iou]])).item() == pytest.approx(worth)


def test_frames_are_averaged_after_the_ladder() -> None:
    assert iou_reward(f64([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([0.25, 0.3])


@pytest.mark.parametrize(
    ("gain", "released", "intended"),
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
def test_gain_over_video(gain: float, released: float, intended: float) -> None:
    key_G = f64([0.5 + gain])
    video_G = f64([0.5])
    for mode, worth in zip(MODES, (released, intended), strict=True):
        two_turns = gain_over_video(key_G, video_G, torch.tensor([2]), mode)
        assert two_turns.item() == pytest.approx(worth)
        one_turn = gain_over_video(key_G, video_G, torch.tensor([1]), mode)
        assert one_turn.item() == 0


@pytest.mark.parametrize(
    ("gain", "released", "intended"),
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
def test_gain_over_turns(gain: float, released: float, intended: float) -> None:
    # Episodes of three turns, two turns and one turn; 9.0 stands where no turn is.
    key_GT = f64([[0.1, 0.5, 0.5 + gain], [0.5, 0.5 + gain, 9.0], [0.3, 9.0, 9.0]])
    for mode, worth in zip(MODES, (released, intended), strict=True):
        rewards_G = gain_over_turns(key_GT, torch.tensor([3, 2, 1]), mode)
        assert rewards_G.tolist() == pytest.approx([worth, worth, 0])


def ladder(gain: float, upper: float, slope: float, middle: float, mode: RewardMode) -> float:
    """The released code line by line; its slip is the second `if`."""
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
    scores = []
    for iou in ious:
        if iou > 0.4:
            scores.append(min(3 * (iou - 0.4), 1.5))
        elif iou > 0.2:
            scores.append(0.0)
        else:
            scores.append(-1.0)
    return sum(scores) / len(scores)


@pytest.mark.parametrize("mode", MODES)
def test_against_a_plain_implementation(mode: RewardMode) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        groups, turns, frames = (int(n) for n in rng.integers(1, 6, 3))
        key_GT = rng.random((groups, turns))
        video_GF = rng.random((groups, frames))
        turns_G = rng.integers(1, turns + 1, groups)

        last_G = []
        over_video_G = []
        over_turns_G = []
        iou_rewards_G = []
        for key_T, video_F, count in zip(key_GT, video_GF, turns_G, strict=True):
            last = key_T[count - 1]
            over_video = 0.0
            over_turns = 0.0
            if count > 1:
                over_video = ladder(last - video_F.mean(), 0.2, 5, 0.1, mode)
                over_turns = ladder(last - max(key_T[: count - 1]), 0.1, 10, 0.05, mode)
            last_G.append(last)
            over_video_G.append(over_video)
            over_turns_G.append(over_turns)
            iou_rewards_G.append(plain_iou_reward(video_F.tolist()))

        count_G = torch.tensor(turns_G)
        video_G = f64(video_GF).mean(dim=1)
        found = gain_over_video(f64(last_G), video_G, count_G, mode)
        assert found.tolist() == pytest.approx(over_video_G)
        found = gain_over_turns(f64(key_GT), count_G, mode)
        assert found.tolist() == pytest.approx(over_turns_G)
        assert iou_reward(f64(video_GF)).tolist() == pytest.approx(iou_rewards_G)
