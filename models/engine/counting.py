"""The tokens that the engine will see in a prompt, counted by its own image processor.

vLLM calls the image processor of the policy's folder with `processor_kwargs`, and puts as many
placeholders into the prompt as the processor's grid has merged patches. The same call is made here,
without an engine and without vLLM, which takes ten seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from transformers import AutoImageProcessor

from core.types import View
from models.dialogue import Dialogue
from models.engine.settings import processor_kwargs


class EngineCounter:
    """Counts tokens for one policy folder. Pixels do not matter, so images are black."""

    def __init__(self, folder: str | Path, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.kwargs = processor_kwargs(dialogue.family)["images_kwargs"]
        # A video has few sizes, and many frames of each.
        self.tokens_of_size = lru_cache(maxsize=None)(self._tokens_of_size)

    def prompt(self, content: Sequence[str | View], *, first: bool = True) -> int:
        """Return the number of tokens of a user message."""
        views = [piece for piece in content if isinstance(piece, View)]
        short = self.dialogue.user(content, first=first, expanded=False)
        visual = sum(self.tokens_of_size(view.height, view.width) for view in views)
        return len(short) - len(views) + visual

    def _tokens_of_size(self, height: int, width: int) -> int:
        black_HWC = np.zeros((height, width, 3), np.uint8)
        out = self.processor(
            images=[black_HWC],
            return_tensors="pt",
            input_data_format="channels_last",
            **self.kwargs,
        )
        [grid] = out["image_grid_thw"].tolist()
        merged = self.processor.merge_size**2
        return int(math.prod(grid)) // merged
