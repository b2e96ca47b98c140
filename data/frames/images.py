"""Images on disk: their files, their size from the header alone, and their pixels as shown.

Names that begin with a dot are no data: file managers and zips leave them (macOS: "._00001.jpg").
Suffixes count in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data.bounds import TooLargeError, check_bytes, check_pixels, check_whole
from data.frames.turning import turned

# Suffixes of a frame whose name has none, in the order in which they are tried.
FRAME_SUFFIXES = (".jpg", ".png", ".jpeg")
# Suffixes of the pictures that people bring themselves.
IMAGE_SUFFIXES = (*FRAME_SUFFIXES, ".webp", ".bmp", ".tif", ".tiff", ".avif")

# `data.bounds` is the bound. Pillow's own would warn of a picture that `data.max_pixels` allows.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION_TAG = 274
# Kind of a page of a TIFF, and the bits of those that are no picture of their own.
_SUBFILE_TAG = 254
_REDUCED_OR_MASK = 1 | 4
# Formats whose pictures, and their sizes, Pillow turns itself.
TURNED_BY_PILLOW = ("AVIF", "TIFF")
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)
# How each is shown: (exchange rows and columns, mirror x, mirror y).
_SHOWN = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def is_hidden(name: str) -> bool:
    """Return whether a name is no data."""
    return name.startswith(".")


def is_image(name: str) -> bool:
    """Return whether a file is an image by its name."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def visible(paths: Iterable[Path]) -> list[Path]:
    """Return paths in order without those that are no data."""
    return sorted(path for path in paths if not is_hidden(path.name))


def first_file(stem: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> Path | None:
    """Return the file of a name without its suffix: the first that exists, or None."""
    for suffix in suffixes:
        for written in (suffix, suffix.upper(), "." + suffix[1:].capitalize()):
            # `Path` itself would take longer than the question.
            if os.path.isfile(stem + written):
                return Path(stem + written)
    return None


def frame_file(folder: str | Path, name: str) -> Path | None:
    """Return the file of a frame, whose name may hold its suffix; None if there is none."""
    file = os.path.join(folder, name)
    has_suffix = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    if has_suffix and os.path.isfile(file):
        return Path(file)
    return first_file(file)


def stems_in(folder: str | Path, suffix: str) -> set[str]:
    """Return the names of a folder's files with a suffix, without it."""
    stems = set()
    for name in os.listdir(folder):
        stem, its_suffix = os.path.splitext(name)
        if its_suffix.lower() == suffix and not is_hidden(name):
            stems.add(stem)
    return stems


def image_size(file: Path) -> tuple[int, int]:
    """Return (height, width) as a viewer and `read_image` turn the picture.

    Raises:
        ValueError: The file is missing, not a readable image, or too large (`data.max_pixels`).
    """
    with _opened(file) as image:
        return _size(image, file)


def num_pages(file: Path) -> int:
    """Return the number of pictures in an image: more than one in an animation or a TIFF of pages.

    Raises:
        ValueError: As `image_size`.
    """
    with _opened(file) as image:
        height, width = image.size[::-1]
        check_pixels(height, width, str(file))
        return len(_pages(image))


def is_mask(file: Path) -> bool:
    """Return whether an image holds numbers instead of colours: a palette PNG, or one of greys."""
    with _opened(file) as image:
        return image.format == "PNG" and image.mode in ("1", "L", "P", "I", "I;16")


def read_image(
    file: Path, check_size: Callable[[int, int], None] = lambda height, width: None
) -> np.ndarray:
    """Return the pixels of an image, uint8 (height, width, 3) RGB, upright.

    Args:
        check_size: Called with height and width before the picture takes its memory; it may raise.

    Raises:
        ValueError: As `image_size`, or the file is cut short.
    """
    with _opened(file) as image:
        height, width = _size(image, file)
        orientation = _orientation(image)
        kind = image.format
        is_turned = kind in TURNED_BY_PILLOW and image.getexif().get(_ORIENTATION_TAG, 1) != 1
    check_size(height, width)
    check_bytes(file.stat().st_size, height * width, str(file))
    if is_turned:
        return _load_whole(file)

    data = file.read_bytes()
    # OpenCV fills what a cut file lacks with grey, without a word.
    if not _has_its_end(data, kind):
        _load_whole(file)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image_HWC is None:
        return _turned(_load_whole(file), orientation)
    return _turned(cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB), orientation)


def read_pages(file: Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield pictures of an animation or a TIFF of pages, uint8 (height, width, 3) RGB, upright.

    Raises:
        ValueError: As `image_size`, or a page is damaged.
    """
    with _opened(file) as image:
        pages = _pages(image)
        for number in numbers:
            image.seek(pages[number])
            width, height = image.size
            check_pixels(height, width, f"{file}: page {number}")
            pixels = np.asarray(image.convert("RGB"))
            yield _turned(pixels, _orientation(image))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image by its header. Errors of the block become a ValueError too."""
    try:
        check_whole(file)
        with Image.open(file) as image:
            yield image
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    except TooLargeError:
        raise
    # A damaged image raises almost anything.
    except Exception as error:
        raise ValueError(f"{file} is not a readable image ({error}): download it again") from error


def _size(image: Image.Image, file: Path) -> tuple[int, int]:
    """Return (height, width) of an image as shown, after its check."""
    width, height = image.size
    check_pixels(height, width, str(file))
    if _orientation(image) in _TURNED:
        return width, height
    return height, width


def _load_whole(file: Path) -> np.ndarray:
    """Return the pixels by Pillow, which refuses a cut file."""
    with _opened(file) as image:
        return np.asarray(image.convert("RGB"))


def _pages(image: Any) -> list[int]:
    """Return the places of the pictures that a viewer plays, without previews and other extras."""
    count = int(getattr(image, "n_frames", 1))
    # Beside a photo lie its preview, depth or brightness.
    if count == 1 or image.format == "MPO":
        return [0]
    if image.format == "TIFF":
        return _whole_pages(image, count) or [0]
    # The picture of an animated PNG for viewers that cannot animate.
    first = 1 if getattr(image, "default_image", False) else 0
    return list(range(first, count))


def _whole_pages(image: Any, count: int) -> list[int]:
    """Return the pages of a TIFF that are no thumbnails, smaller copies or masks."""
    pages = []
    for number in range(count):
        image.seek(number)
        if not int(image.tag_v2.get(_SUBFILE_TAG, 0)) & _REDUCED_OR_MASK:
            pages.append(number)
    return pages


def _orientation(image: Any) -> int:
    """Return the EXIF orientation, 1 to 8."""
    if image.format in TURNED_BY_PILLOW:
        return 1
    if image.format != "PNG":
        return int(image.getexif().get(_ORIENTATION_TAG) or 1)
    # `getexif` would decode the whole picture.
    exif = Image.Exif()
    exif.load(image.info.get("exif"))
    return int(exif.get(_ORIENTATION_TAG) or 1)


def _turned(image_HWC: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in _SHOWN:
        return image_HWC
    return turned(image_HWC, *_SHOWN[orientation])


def _has_its_end(data: bytes, kind: str | None) -> bool:
    """Return whether the end mark of an image is there; False where only decoding tells."""
    if kind in ("JPEG", "MPO"):
        # A preview inside has an end mark too, but lies before the last scan.
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND" in data[-64:]
    return False
