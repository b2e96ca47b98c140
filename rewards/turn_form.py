"""Rewards for the form of all turns of an episode. They know counts and outcomes of rules, no text.

Source: the released code of VideoSEG-O3 (SPEC B.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 4  # that a thought should name


def all_in_form(kept_GT: Sequence[Sequence[bool]]) -> Tensor:
    """`strict_format_cot`: 1 where every turn keeps the form, else -1; float64 (G,). Episodes may differ in length."""
    return torch.tensor([1.0 if all(kept) else -1.0 for kept in kept_GT], dtype=torch.float64)


def share_of_steps(named_GT: Sequence[Sequence[int]]) -> Tensor:
    """`step_format_cot`: mean over an episode's turns of the share of the four steps that its thought names.

    float64 (G,) in [0, 1]. named_GT: how many, of each turn; at least one turn.
    """
    return torch.tensor(
        [sum(named) / (STEPS * len(named)) for named in named_GT], dtype=torch.float64
    )
