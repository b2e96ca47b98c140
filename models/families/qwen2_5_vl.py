"""Qwen2.5-VL (arXiv 2502.13923)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from models.families.base import ChatFormat, Family

QWEN_CHAT = ChatFormat(
    turn_start="<|im_start|>",
    turn_end="<|im_end|>",
    image_start="<|vision_start|>",
    image="<|image_pad|>",
    image_end="<|vision_end|>",
)


class Qwen2_5VL(Family):
    """Patches of 14 pixels, 28 x 28 pixels a token; the vision tower gives one feature a token.

    Places in an image are in its pixels, as the model sees it.
    """

    model_type = "qwen2_5_vl"
    # The chat template of the released folders.
    chat = replace(QWEN_CHAT, system="You are a helpful assistant.")
    patch_size = 14

    def repeat_images(self, features: Any, order: Sequence[int]) -> Any:
        """As `Family.repeat_images`."""
        features.pooler_output = tuple(features.pooler_output[i] for i in order)
        return features
