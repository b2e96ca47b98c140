"""Images to patches, by the image processor of the policy's folder, as in the engine.

The limits of an image are the family's (`Family.processor_size`), not those of the folder's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor

from models.families import family_of


class Pixels:
    """Turns images into the input of the vision tower."""

    def __init__(self, folder: str | Path) -> None:
        family = family_of(folder)
        self.vision = family.vision
        self.size = family.processor_size
        self.processor = AutoImageProcessor.from_pretrained(folder)

    def __call__(self, images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return the patches of uint8 (H, W, 3) images, and their (U, 3) grid.

        Raises:
            ValueError: the processor would resize an image.
        """
        if not images:
            return torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.int64)

        arrays = [np.asarray(image) for image in images]
        out = self.processor(
            images=arrays,
            return_tensors="pt",
            input_data_format="channels_last",
            size=self.size,
        )
        grid_U3 = out["image_grid_thw"]
        for image, (_, rows, columns) in zip(images, grid_U3.tolist(), strict=True):
            self._check_size(image, rows, columns)
        return out["pixel_values"], grid_U3

    def _check_size(
        self,
        image: np.ndarray,
        rows: int,
        columns: int,
    ) -> None:
        """Refuse a resized image: engine and learner would count other tokens."""
        patch = self.processor.patch_size
        height, width = image.shape[:2]
        if (rows * patch, columns * patch) == (height, width):
            return
        vision = self.vision
        raise ValueError(
            f"the image processor resized an image of {height} x {width} pixels to "
            f"{rows * patch} x {columns * patch}: sides must be multiples of {vision.cell}, with "
            f"{vision.min_pixels} to {vision.max_pixels} pixels in all"
        )
