"""Rewards of VideoSEG-O3 for the form of all turns of an episode.

Source: the released code (docs/spec/videoseg_o3.md, Rewards).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Number of steps that a thought should name.
NUM_STEPS = 4


def all_in_form(kept_GT: Sequence[Sequence[bool]]) -> Tensor:
    """Return `strict_format_cot`: 1 if every turn keeps the form, else -1; float64 (G,).

    Episodes may differ in length.
    """
    rewards_G = [1.0 if all(kept_T) else -1.0 for kept_T in kept_GT]
    return torch.tensor(rewards_G, dtype=torch.float64)


def share_of_steps(named_GT: Sequence[Sequence[int]]) -> Tensor:
    """Return `step_format_cot`: mean share of the steps named in a turn; float64 (G,) in [0, 1].

    Args:
        named_GT: number of the four steps in each turn's thought; at least one turn.
    """
    rewards_G = [sum(named_T) / (NUM_STEPS * len(named_T)) for named_T in named_GT]
    return torch.tensor(rewards_G, dtype=torch.float64)
