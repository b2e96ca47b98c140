"""Part and keyframe of VideoSEG-O3: by hand, and against a plain implementation for one sample."""

import numpy as np
import pytest
import torch

from rewards.reward_mode import RewardMode
from rewards.temporal_search import keyframe_hit, span_iou, span_precision, span_reward

MODES = ["as_released", "as_intended"]
# Visible in [2, 6) of ten frames.
VISIBLE = torch.tensor([False, False, True, True, True, True, False, False, False, False])


def spans(*rows: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_precision_is_not_iou() -> None:
    parts = spans((2, 6), (3, 4), (0, 10), (0, 3), (6, 9), (4, 8))
    assert span_precision(parts, VISIBLE).tolist() == pytest.approx(
        [1, 1, 0.4, 1 / 3, 0, 0.5], abs=1e-6
    )
    assert span_iou(parts, VISIBLE).tolist() == pytest.approx([1, 0.25, 0.4, 1 / 6, 0, 2 / 6])


def test_the_released_reward_pays_a_single_frame_in_full_and_a_half_not_at_all() -> None:
    single_exact_half = spans((3, 4), (2, 6), (4, 8))
    released = span_reward(single_exact_half, VISIBLE, "as_released")
    intended = span_reward(single_exact_half, VISIBLE, "as_intended")
    assert released.tolist() == pytest.approx([0.5, 0.5, -0.5], abs=1e-6)
    assert intended.tolist() == [-0.5, 0.5, -0.5]


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_part(mode: RewardMode) -> None:
    empty = spans((4, 4), (5, 3), (0, 0), (10, 10))
    assert span_reward(empty, VISIBLE, mode).tolist() == [-0.5] * 4


@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_is_never_visible(mode: RewardMode) -> None:
    nowhere_F = torch.zeros(10, dtype=torch.bool)
    assert span_reward(spans((1, 9), (2, 2)), nowhere_F, mode).tolist() == [0.5, -0.5]


def test_a_part_outside_the_video_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="outside of the video"):
        span_iou(spans((0, 11)), VISIBLE)


def test_keyframe() -> None:
    frames_G = torch.tensor([2, 5, 6, 0, -1, 10])
    assert keyframe_hit(frames_G, VISIBLE).tolist() == [1, 1, -1, -1, -1, -1]


def plain_reward(start: int, stop: int, visible: list[bool], mode: RewardMode) -> float:
    if start >= stop:
        return -0.5
    part = set(range(start, stop))
    truth = {i for i, seen in enumerate(visible) if seen}
    if not truth:
        return 0.5
    whole = part if mode == "as_released" else part | truth
    quality = len(part & truth) / len(whole)
    if mode == "as_released":
        # One half falls short of the limit by the release's rounding.
        quality -= 2e-8
    return 0.5 * quality if quality >= 0.5 else -0.5


@pytest.mark.parametrize("mode", MODES)
def test_against_sets_of_frames(mode: RewardMode) -> None:
    rng = np.random.default_rng(0)
    earned = set()
    for _ in range(100):
        frames = int(rng.integers(1, 30))
        visible = (rng.random(frames) < rng.choice([0.1, 0.6, 0.95])).tolist()
        parts = rng.integers(0, frames + 1, (8, 2))
        rewards = span_reward(torch.tensor(parts), torch.tensor(visible), mode).tolist()
        expected = [plain_reward(start, stop, visible, mode) for start, stop in parts.tolist()]
        assert rewards == pytest.approx(expected, abs=1e-6)
        earned |= set(rewards)
    assert len(earned) > 20
