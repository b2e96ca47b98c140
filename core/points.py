"""Points on and beside an object's mask, and masks at another size. Points are (x, y), whole pixels.

This file knows masks as arrays; no files, no run-length encodings, no rewards.
"""

from __future__ import annotations

import cv2
import numpy as np

Point = tuple[int, int]


def inner_point(mask_HW: np.ndarray) -> Point:
    """The centre of the largest circle that fits into the mask: always on it, unlike the centroid.

    The image's edge counts as the object's. Source: VisionReasoner's data preparation (distance-transform maximum).
    """
    assert mask_HW.any(), "an empty mask has no inner point"
    rows = np.flatnonzero(mask_HW.any(axis=1))
    columns = np.flatnonzero(mask_HW.any(axis=0))
    top = int(rows[0])
    left = int(columns[0])
    tight_HW = mask_HW[
        top : rows[-1] + 1, left : columns[-1] + 1
    ]  # what lies around it is background like the padding
    padded_HW = np.pad(tight_HW.astype(np.uint8), 1)
    distance_HW = cv2.distanceTransform(padded_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(distance_HW)), tight_HW.shape)
    return left + int(x), top + int(y)


def point_beside(
    own_HW: np.ndarray, union_HW: np.ndarray, limit: float, rng: np.random.Generator
) -> Point | None:
    """A random pixel off all objects (`union_HW`) and within taxicab distance `limit` of one of them (`own_HW`).

    From the middle half of the distances where there is one, so that it is neither at the edge nor at the limit.
    None where no pixel is (the objects fill the image).
    """
    own_to_HW = cv2.distanceTransform((~own_HW).astype(np.uint8), cv2.DIST_L1, 3)
    for low, high in ((limit / 4, 3 * limit / 4), (0, limit)):
        ys, xs = np.nonzero(~union_HW & (own_to_HW > low) & (own_to_HW <= high))
        if len(xs):
            pick = int(rng.integers(len(xs)))
            return int(xs[pick]), int(ys[pick])
    return None


def resize_mask(mask_HW: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """The mask at (height, width) `hw`, nearest pixel, bool."""
    resized = cv2.resize(mask_HW.astype(np.uint8), (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)
    return resized.astype(bool)


def scale_pixel(value: float, size: int, to_size: int) -> int:
    """A pixel's coordinate in an image resized from `size` to `to_size`, rounded half up, inside the image."""
    return min(int(value * to_size / size + 0.5), to_size - 1)
