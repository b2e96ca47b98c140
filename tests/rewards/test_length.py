"""The soft length penalty by hand."""

import pytest
import torch

from rewards.length import LengthBudget, soft_length


def test_penalty_starts_above_the_budget() -> None:
    used_G = torch.tensor([0, 64, 65, 114, 164, 264])
    clamped = soft_length(used_G, 64, 0.01).tolist()
    assert clamped == pytest.approx([1, 1, 0.99, 0.5, 0, 0])
    free = soft_length(used_G, 64, 0.01, clamp=False).tolist()
    assert free == pytest.approx([1, 1, 0.99, 0.5, 0, -1])


def test_budget_by_difficulty() -> None:
    budget = LengthBudget()
    tokens = [budget.of(difficulty) for difficulty in (1, 4, 4.2, 7, 7.2, 10)]
    assert tokens == [48, 48, 64, 64, 96, 96]
