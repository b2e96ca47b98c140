"""Qwen3-VL (arXiv 2511.21631)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.families.base import Family
from models.families.qwen2_5_vl import QWEN_CHAT


class Qwen3VL(Family):
    """Patches of 16 pixels, 32 x 32 pixels a token.

    Features of several vision layers enter the language model ("deepstack").
    """

    model_type = "qwen3_vl"
    chat = QWEN_CHAT
    patch_size = 16

    def repeat_images(self, features: Any, order: Sequence[int]) -> Any:
        """As `Family.repeat_images`; the features of each deepstack layer are repeated as well."""
        layers = []
        for layer in features.deepstack_features:
            layers.append(tuple(layer[i] for i in order))

        features.pooler_output = tuple(features.pooler_output[i] for i in order)
        features.deepstack_features = layers
        return features
