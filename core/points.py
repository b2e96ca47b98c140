"""Points on and beside a mask, and masks at another size. Points are (x, y), whole pixels."""

from __future__ import annotations

import cv2
import numpy as np

Point = tuple[int, int]


def inner_point(mask_HW: np.ndarray) -> Point:
    """Return the centre of the largest circle inside the mask: always on it, unlike the centroid.

    The edge of the image counts as an edge of the object. Of several such centres the topmost
    counts, and of those in one row the leftmost.

    Source: VisionReasoner's data preparation, the maximum of the distance transform.
    """
    assert mask_HW.any(), "an empty mask has no inner point"
    rows = np.flatnonzero(mask_HW.any(axis=1))
    columns = np.flatnonzero(mask_HW.any(axis=0))
    top = int(rows[0])
    left = int(columns[0])

    # Everything around the tight box is background, just like the padding.
    tight_HW = mask_HW[top : rows[-1] + 1, left : columns[-1] + 1]
    y, x = np.unravel_index(int(np.argmax(squared_depth(tight_HW))), tight_HW.shape)
    return left + int(x), top + int(y)


def squared_depth(mask_HW: np.ndarray) -> np.ndarray:
    """Return each pixel's squared distance to the nearest pixel off the mask, float64 (H, W).

    Everything outside of the array counts as off the mask. The values are whole numbers.
    """
    padded_HW = np.pad(mask_HW.astype(np.uint8), 1)
    distance_HW = cv2.distanceTransform(padded_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]

    # OpenCV's square roots differ in their last bit with the alignment of the memory, so equal
    # distances may compare as unequal. Squared distances are whole numbers and compare exactly.
    return np.rint(distance_HW.astype(np.float64) ** 2)


def point_beside(
    own_HW: np.ndarray,
    union_HW: np.ndarray,
    limit: float,
    rng: np.random.Generator,
) -> Point | None:
    """Return a random pixel off all objects and within taxicab distance `limit` of one of them.

    A pixel in the middle half of the distances is preferred, neither at the object's edge nor at
    the limit. None if the objects leave no such pixel.

    Args:
        own_HW: mask of the object to be near.
        union_HW: mask of all objects.
    """
    distance_HW = cv2.distanceTransform((~own_HW).astype(np.uint8), cv2.DIST_L1, 3)
    for low, high in ((limit / 4, 3 * limit / 4), (0, limit)):
        ys, xs = np.nonzero(~union_HW & (distance_HW > low) & (distance_HW <= high))
        if len(xs):
            pick = int(rng.integers(len(xs)))
            return int(xs[pick]), int(ys[pick])
    return None


def resize_mask(mask_HW: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Return the mask at (height, width) `hw`, by nearest pixel, bool."""
    height, width = hw
    pixels_HW = mask_HW.astype(np.uint8)
    resized_HW = cv2.resize(pixels_HW, (width, height), interpolation=cv2.INTER_NEAREST)
    return resized_HW.astype(bool)


def scale_pixel(value: float, size: int, to_size: int) -> int:
    """Return a pixel's coordinate after a resize, rounded half up and kept inside the image."""
    return min(int(value * to_size / size + 0.5), to_size - 1)
