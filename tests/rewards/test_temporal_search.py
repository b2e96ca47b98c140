"""Part and keyframe of VideoSEG-O3: by hand, and against a plain implementation for one sample."""

import numpy as np
import pytest
import torch

from rewards.temporal_search import keyframe_hit, span_iou, span_precision, span_reward

VISIBLE = torch.tensor([False, False, True, True, True, True, False, False, False, False])  # [2, 6)


def spans(*rows: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_precision_is_not_iou():
    parts = spans((2, 6), (3, 4), (0, 10), (0, 3), (6, 9), (4, 8))
    assert span_precision(parts, VISIBLE).tolist() == pytest.approx([1, 1, 0.4, 1 / 3, 0, 0.5])
    assert span_iou(parts, VISIBLE).tolist() == pytest.approx([1, 0.25, 0.4, 1 / 6, 0, 2 / 6])


def test_the_released_reward_pays_a_single_frame_in_full():
    one = (3, 4)
    exact = (2, 6)
    half = (4, 8)
    assert span_reward(spans(one, exact, half), VISIBLE, "as_released").tolist() == [0.5, 0.5, 0.25]
    assert span_reward(spans(one, exact, half), VISIBLE, "as_intended").tolist() == [
        -0.5,
        0.5,
        -0.5,
    ]


@pytest.mark.parametrize("mode", ["as_released", "as_intended"])
def test_a_part_that_says_nothing(mode):
    assert (
        span_reward(spans((4, 4), (5, 3), (0, 0), (10, 10)), VISIBLE, mode).tolist() == [-0.5] * 4
    )


@pytest.mark.parametrize("mode", ["as_released", "as_intended"])
def test_a_target_that_is_never_visible(mode):
    nothing = torch.zeros(10, dtype=torch.bool)
    assert span_reward(spans((1, 9), (2, 2)), nothing, mode).tolist() == [0.5, -0.5]


def test_a_part_outside_the_video_is_a_bug_of_the_caller():
    with pytest.raises(AssertionError, match="outside of the video"):
        span_iou(spans((0, 11)), VISIBLE)


def test_keyframe():
    assert keyframe_hit(torch.tensor([2, 5, 6, 0, -1, 10]), VISIBLE).tolist() == [
        1,
        1,
        -1,
        -1,
        -1,
        -1,
    ]


def plain_reward(start: int, stop: int, visible: list[bool], mode: str) -> float:
    if start >= stop:
        return -0.5
    part = set(range(start, stop))
    truth = {i for i, seen in enumerate(visible) if seen}
    if not truth:
        return 0.5
    q = len(part & truth) / len(part if mode == "as_released" else part | truth)
    return 0.5 * q if q >= 0.5 else -0.5


@pytest.mark.parametrize("mode", ["as_released", "as_intended"])
def test_against_sets_of_frames(mode):
    rng = np.random.default_rng(0)
    earned = set()
    for _ in range(100):
        frames = int(rng.integers(1, 30))
        visible = (rng.random(frames) < rng.choice([0.1, 0.6, 0.95])).tolist()
        parts = rng.integers(0, frames + 1, (8, 2))
        rewards = span_reward(torch.tensor(parts), torch.tensor(visible), mode).tolist()
        assert rewards == pytest.approx(
            [plain_reward(*part, visible, mode) for part in parts.tolist()]
        )
        earned |= set(rewards)
    assert len(earned) > 20
