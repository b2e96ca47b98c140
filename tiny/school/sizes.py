"""Image sizes of the tiny policies, by model type. Numbers alone, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Image sizes of a tiny policy, in pixels.

    Attributes:
        model_type: Name of the family in transformers.
        patch: Side of a patch of the vision tower; 2 x 2 patches make a token.
    """

    model_type: str
    patch: int

    @property
    def cell(self) -> int:
        """Side of an image token."""
        return 2 * self.patch

    @property
    def small(self) -> int:
        """Side of the frames of the first turn, 9 tokens each."""
        return 3 * self.cell

    @property
    def key(self) -> int:
        """Side of a keyframe, 16 tokens; boxes are in its pixels."""
        return 4 * self.cell


QWEN2_5 = Sizes("qwen2_5_vl", 14)
QWEN3 = Sizes("qwen3_vl", 16)
SIZES = {sizes.model_type: sizes for sizes in (QWEN2_5, QWEN3)}


def sizes_of(config: Any) -> Sizes:
    """Return the sizes for a Hugging Face configuration.

    Raises:
        ValueError: No tiny policy has this model type.
    """
    if config.model_type not in SIZES:
        raise ValueError(
            f"model type {config.model_type!r}: the tiny policy is one of {', '.join(SIZES)}"
        )
    return SIZES[config.model_type]
