"""Images on disk: their suffixes, and their size from the header alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data.bounds import check_pixels

# Suffixes of a frame whose name has none, in the order in which they are tried.
FRAME_SUFFIXES = (".jpg", ".png", ".jpeg")
# Suffixes of the pictures that people bring themselves.
IMAGE_SUFFIXES = (*FRAME_SUFFIXES, ".webp", ".bmp", ".tif", ".tiff")

# `data.bounds` is the bound. Pillow's own would warn of a picture that `data.max_pixels` allows.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION_TAG = 274
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)


def first_file(stem: str, suffixes: Sequence[str] = FRAME_SUFFIXES) -> Path | None:
    """Return the file of a name without its suffix: the first that exists, or None."""
    for suffix in suffixes:
        file = Path(stem + suffix)
        if file.is_file():
            return file
    return None


def stems_in(folder: str | Path, suffix: str) -> set[str]:
    """Return the names of a folder's files with a suffix, without it."""
    stems = set()
    for name in os.listdir(folder):
        if name.endswith(suffix):
            stems.add(name.removesuffix(suffix))
    return stems


def image_size(file: Path) -> tuple[int, int]:
    """Return (height, width) as a viewer and `cv2.imread` turn the picture.

    Raises:
        ValueError: The file is missing, not a readable image, or too large (`data.max_pixels`).
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.format == "JPEG" and image.getexif().get(_ORIENTATION_TAG) in _TURNED
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a readable image ({error}): download it again") from error

    check_pixels(height, width, str(file))
    if turned:
        return width, height
    return height, width
