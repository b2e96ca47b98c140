"""The soft length penalty of VideoSeg-R1 and its budget of reasoning tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LengthBudget:
    """Reasoning tokens allowed at each difficulty.

    The paper does not give its values; these are chosen by this project. Published mean lengths are
    43 to 56 tokens with the penalty and 62 to 90 without, so larger budgets would never bind.

    Attributes:
        easy, medium, hard: tokens.
        easy_to: largest difficulty, on the scale 1 to 10, of an easy sample.
        medium_to: largest difficulty of a medium sample; above it a sample is hard.
    """

    easy: int = 48
    medium: int = 64
    hard: int = 96
    easy_to: float = 4.0
    medium_to: float = 7.0

    def of(self, difficulty: float) -> int:
        """Return L(D), the tokens allowed for a sample of this difficulty."""
        if difficulty <= self.easy_to:
            return self.easy
        if difficulty <= self.medium_to:
            return self.medium
        return self.hard


def soft_length(used_G: Tensor, budget: float, beta: float, clamp: bool = True) -> Tensor:
    """Return the factor of the whole reward for reasoning of `used_G` tokens, float64 (G,).

        s = 1 - beta (used - budget) where used > budget, else 1
        R_final = R s                                           (VideoSeg-R1, Eq. 7 and 8)

    The paper sets no floor: below 0 a better answer earns less than a worse one of the same length.
    With `clamp`, chosen by this project, s stops at 0; `clamp=False` is the paper's formula.
    """
    s_G = 1 - beta * (used_G.double() - budget).clamp(min=0)
    if clamp:
        s_G = s_G.clamp(min=0)
    return s_G
