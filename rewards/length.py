"""The soft length penalty and its budget. It knows numbers of tokens, no text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Budget:
    """Reasoning tokens allowed by difficulty; the paper's values are not published, these are ours.

    The published mean lengths are 43 to 56 tokens with the penalty and 62 to 90 without, so larger budgets never bind.
    """

    easy: int = 48
    medium: int = 64
    hard: int = 96
    easy_to: float = 4.0  # difficulty up to which a sample is easy, on the scale 1 to 10
    medium_to: float = 7.0  # and medium; above it, hard

    def of(self, difficulty: float) -> int:
        """L(D): tokens for a sample of this difficulty."""
        if difficulty <= self.easy_to:
            return self.easy
        return self.medium if difficulty <= self.medium_to else self.hard


def soft_length(used_G: Tensor, budget: float, beta: float, clamp: bool = True) -> Tensor:
    """The factor s of the whole reward for reasoning of `used_G` tokens, float64 (G,).

        s = 1 - beta (used - budget) where used > budget, else 1             (VideoSeg-R1, Eq. 7; R_final = R s, Eq. 8)

    The paper sets no floor: below 0 a better answer earns less than a worse one of the same length, so by default s
    ends at 0 (ours). `clamp=False` is the paper's.
    """
    s_G = 1 - beta * (used_G.double() - budget).clamp(min=0)
    return s_G.clamp(min=0) if clamp else s_G
