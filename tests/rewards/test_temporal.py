"""Eq. 7 of ReVSeg by hand, with its edges."""

import pytest
import torch

from rewards.temporal import keyframe_size, keyframe_visible


def size_rewards(frames: list[int], sizes: list[float]) -> list[float]:
    sizes_F = torch.tensor(sizes)
    return keyframe_size(torch.tensor(frames), sizes_F > 0, sizes_F).tolist()


def test_size_between_smallest_and_largest() -> None:
    assert size_rewards([0, 1, 2, 3], [0, 10, 40, 20]) == [0.0, 0.25, 1.0, 0.5]


def test_smallest_visible_frame_earns_nothing_when_always_visible() -> None:
    assert size_rewards([0, 1, 2], [10, 20, 30]) == [0.0, 0.5, 1.0]


def test_all_sizes_the_same() -> None:
    assert size_rewards([0, 1], [5, 5]) == [1.0, 1.0]
    assert size_rewards([0], [5]) == [1.0]


def test_never_visible() -> None:
    assert size_rewards([0, 1], [0, 0]) == [0.0, 0.0]


def test_no_keyframe() -> None:
    assert size_rewards([-1, 1], [1, 2]) == [0.0, 1.0]


def test_an_empty_mask_earns_nothing_even_with_a_box() -> None:
    sizes_F = torch.tensor([1.0, 2.0])
    visible_F = torch.tensor([True, False])
    assert keyframe_size(torch.tensor([1]), visible_F, sizes_F).tolist() == [0.0]


def test_scale_does_not_matter() -> None:
    assert size_rewards([1], [1e-9, 3e-9, 5e-9]) == pytest.approx(size_rewards([1], [1, 3, 5]))


def test_binary() -> None:
    visible_F = torch.tensor([False, True])
    assert keyframe_visible(torch.tensor([0, 1, -1]), visible_F).tolist() == [0.0, 1.0, 0.0]


def test_frame_out_of_range_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="beyond 2 sampled frames"):
        size_rewards([2], [1, 2])
