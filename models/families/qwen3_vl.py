"""Qwen3-VL (arXiv 2511.21631)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.families.base import Family
from models.families.qwen2_5_vl import QWEN_CHAT


class Qwen3VL(Family):
    """Patches of 16 pixels, 32 x 32 pixels a token.

    Features of several vision layers enter the language model ("deepstack"). The template adds no
    system message. Places in an image are relative, from 0 to 1000 along either side (Qwen3-VL's
    cookbook 2d_grounding: value / 1000 * side is the pixel).
    """

    model_type = "qwen3_vl"
    chat = QWEN_CHAT
    coordinates = "thousandths"
    patch_size = 16

    def repeat_images(self, features: Any, order: Sequence[int]) -> Any:
        """As `Family.repeat_images`; the features of each deepstack layer are repeated as well."""
        layers = []
        for layer in features.deepstack_features:
            layers.append(tuple(layer[i] for i in order))

        features.pooler_output = tuple(features.pooler_output[i] for i in order)
        features.deepstack_features = layers
        return features
