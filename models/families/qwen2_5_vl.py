"""Qwen2.5-VL (arXiv 2502.13923)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.families.base import ChatFormat, Family

# The official template of Qwen2.5-VL opens every dialogue with "You are a helpful assistant.".
# Policies of this project are trained without a system message, so there is none here.
QWEN_CHAT = ChatFormat(
    turn_start="<|im_start|>",
    turn_end="<|im_end|>",
    image_start="<|vision_start|>",
    image="<|image_pad|>",
    image_end="<|vision_end|>",
)


class Qwen2_5VL(Family):
    """Patches of 14 pixels, 28 x 28 pixels a token; the vision tower gives one feature a token."""

    model_type = "qwen2_5_vl"
    chat = QWEN_CHAT
    patch_size = 14

    def repeat_images(self, features: Any, order: Sequence[int]) -> Any:
        """As `Family.repeat_images`."""
        features.pooler_output = tuple(features.pooler_output[i] for i in order)
        return features
