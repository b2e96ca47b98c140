"""Names of images by their content."""

from __future__ import annotations

import hashlib

import numpy as np


def image_digest(image_HWC: np.ndarray) -> str:
    """Return the digest of a uint8 image by its pixels and shape (BLAKE2b, 128 bits)."""
    assert image_HWC.dtype == np.uint8, f"an image holds uint8, not {image_HWC.dtype}"
    header = repr(image_HWC.shape).encode()
    pixels = np.ascontiguousarray(image_HWC).tobytes()
    return hashlib.blake2b(header + pixels, digest_size=16).hexdigest()
