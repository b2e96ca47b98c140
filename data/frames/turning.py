"""Pictures turned and mirrored as their file asks for: EXIF of images, matrices of videos."""

from __future__ import annotations

import numpy as np


def turned(image_HWC: np.ndarray, exchanged: bool, mirror_x: bool, mirror_y: bool) -> np.ndarray:
    """Return a picture with rows and columns exchanged, then mirrored, in memory of its own order.

    Args:
        mirror_x: Left and right change places.
        mirror_y: Top and bottom do.
    """
    if exchanged:
        image_HWC = image_HWC.transpose(1, 0, 2)
    if mirror_x:
        image_HWC = image_HWC[:, ::-1]
    if mirror_y:
        image_HWC = image_HWC[::-1]
    return np.ascontiguousarray(image_HWC)
