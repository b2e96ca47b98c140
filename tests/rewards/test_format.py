"""The share of rules kept."""

import torch

from rewards.format import format_reward


def test_share_of_rules() -> None:
    rules_GR = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    assert format_reward(rules_GR).tolist() == [1.0, 0.5, 0.75, 0.0]
