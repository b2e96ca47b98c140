"""What systems share: sizes in whole image tokens, weights, weighted sums."""

from __future__ import annotations

import pytest
import torch

import systems
from core.types import Reward, Vision
from systems.base import check_weights, weighted_rewards
from systems.revseg import ReVSeg


@pytest.mark.parametrize(("cell", "side"), [(28, 840), (32, 832)])
def test_sizes_are_rounded_to_whole_image_tokens(cell, side):
    system = systems.make("revseg", {"frame_width": 450}, Vision(cell))
    assert isinstance(system, ReVSeg)
    options = system.options
    assert (options.keyframe_height, options.keyframe_width) == (side, side)
    assert options.frame_width == 448


def test_a_reward_is_the_weighted_sum_of_its_terms():
    terms = {"form": torch.tensor([1.0, 0.0]), "iou": torch.tensor([0.25, 0.5])}
    rewards = weighted_rewards(terms, {"form": 0.5, "iou": 2.0, "unused": 9.0})
    assert rewards == [
        Reward(1.0, {"form": 1.0, "iou": 0.25}),
        Reward(1.0, {"form": 0.0, "iou": 0.5}),
    ]


def test_a_weight_of_no_term():
    check_weights({"iou": 0.0}, {"form": 1.0, "iou": 1.0})
    with pytest.raises(ValueError, match=r"weights\.ious is unknown; did you mean 'iou'"):
        check_weights({"ious": 0.0}, {"form": 1.0, "iou": 1.0})
