"""What differs between the model families that the tiny policy is made as: numbers alone, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A model family of transformers and how the tiny policy sees in it."""

    name: str  # transformers' model type
    patch: int  # pixels on a side of a patch of the vision tower; 2 x 2 of them make a token

    @property
    def cell(self) -> int:
        """Pixels on a side of an image token."""
        return 2 * self.patch

    @property
    def small(self) -> int:
        """Side in pixels of the frames of the first turn, 9 tokens each."""
        return 3 * self.cell

    @property
    def key(self) -> int:
        """Side in pixels of a keyframe, 16 tokens; boxes are in its pixels."""
        return 4 * self.cell


QWEN2_5 = Family("qwen2_5_vl", 14)
QWEN3 = Family("qwen3_vl", 16)
FAMILIES = {family.name: family for family in (QWEN2_5, QWEN3)}


def family_of(config: Any) -> Family:
    """Of a Hugging Face configuration. Raises ValueError for a model that the tiny policy is not made as."""
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"model type {config.model_type!r}: the tiny policy is one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]
