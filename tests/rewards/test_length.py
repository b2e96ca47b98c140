"""The soft length penalty by hand."""

import pytest
import torch

from rewards.length import Budget, soft_length


def test_penalty_starts_above_the_budget():
    used = torch.tensor([0, 64, 65, 114, 164, 264])
    expected = [1, 1, 0.99, 0.5, 0, 0]
    assert soft_length(used, 64, 0.01).tolist() == pytest.approx(expected)
    assert soft_length(used, 64, 0.01, clamp=False).tolist() == pytest.approx([*expected[:5], -1])


def test_budget_by_difficulty():
    assert [Budget().of(d) for d in (1, 4, 4.2, 7, 7.2, 10)] == [48, 48, 64, 64, 96, 96]
