"""Bounds on what files of other people may ask for: pixels, outlines, and nesting.

A small file can describe a picture or a document that takes all memory. Each bound is checked
before anything is decoded or drawn.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Pixels of a frame without `data.max_pixels`: 8K.
MAX_PIXELS = 8192 * 4320
# Length of a polygon's outline in pixels. Drawing takes about 100 bytes for each.
MAX_OUTLINE = 1_000_000
# Lists and objects inside one another. The formats need fewer than ten.
MAX_DEPTH = 64
# Bytes of annotations that are read at once; files of masks are read piece by piece.
MAX_TEXT = 512 << 20
# Bytes of a line of annotations.
MAX_LINE = 64 << 20
# Bytes of an image beside 16 for each pixel: more than any format needs.
MAX_EXTRAS = 64 << 20
# Bytes of a picture or an animation that Pillow reads in one piece, and its decoder once more.
MAX_WHOLE = 128 << 20
# Bytes of JSON to look at together.
BLOCK = 1 << 16

# A text of JSON; the last one of a block may be cut.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|(\\?)\Z)', re.DOTALL)

_max_pixels = MAX_PIXELS


def allow_pixels(count: int) -> None:
    """Set the most pixels of a frame in this process: `data.max_pixels`."""
    global _max_pixels
    _max_pixels = count


def max_pixels() -> int:
    """Return the most pixels that a frame may have."""
    return _max_pixels


class TooLargeError(ValueError):
    """A frame or mask has too many pixels."""


def check_pixels(height: int, width: int, where: str) -> None:
    """Raise TooLargeError for a frame or mask of too many pixels; `where` begins the message."""
    if height * width > _max_pixels:
        raise TooLargeError(
            f"{where}: {height} x {width} (height x width) is more than data.max_pixels="
            f"{_max_pixels}: scale it down, or raise data.max_pixels"
        )


def check_outline(polygon: Any, height: int, width: int, where: str) -> None:
    """Refuse a polygon that cannot be drawn in an image.

    Coordinates may leave the image by its own size, as some annotations do.

    Args:
        polygon: x and y in turn, a flat list.

    Raises:
        ValueError: No flat list of 2 or more points, a coordinate far outside of the image, or
            an outline that is too long.
    """
    # COCO's own code draws a line of two points too.
    is_flat = isinstance(polygon, list) and len(polygon) >= 4 and len(polygon) % 2 == 0
    if not is_flat or not all(_is_number(x) for x in polygon):
        raise ValueError(
            f"{where} holds {polygon!r:.60}, which is not a flat list of 2 or more points"
        )
    check_corners(np.array(polygon, np.float64).reshape(-1, 2), height, width, where)


def check_corners(points_N2: np.ndarray, height: int, width: int, where: str) -> None:
    """Refuse the corners (x, y) of a polygon as `check_outline` does."""
    size = np.array([width, height], np.float64)
    # Written so that NaN is outside.
    outside = ~((points_N2 >= -size) & (points_N2 <= 2 * size))
    if outside.any():
        worst = float(points_N2[outside][0])
        raise ValueError(
            f"{where} holds the coordinate {worst:g}, far outside of its image of {height} x "
            f"{width} (height x width): correct it, or take the annotation out"
        )
    steps_N2 = np.abs(np.diff(points_N2, axis=0, append=points_N2[:1]))
    length = float(steps_N2.max(axis=1).sum())
    if length > MAX_OUTLINE:
        raise ValueError(
            f"{where} holds an outline of {length:.0f} pixels, more than {MAX_OUTLINE}: correct "
            "it, or take the annotation out"
        )


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and math.isfinite(x)


class ShallowStream:
    """A stream of JSON for `ijson`, refused when it nests too deep.

    ijson keeps the path to every open object, so that a file of 600 kB could take 11 GB.

    Attributes:
        depth: Lists and objects that are open after what was read.
    """

    def __init__(self, where: str, stream: BinaryIO) -> None:
        self._where = where
        self._stream = stream
        self.depth = 0
        # The opening quote and escape of a text that the last block cut.
        self._cut = b""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: They open more than MAX_DEPTH lists and objects.
        """
        block = self._stream.read(size)
        bare = self._without_texts(block)
        codes = np.frombuffer(bare, np.uint8)
        opens = (codes == ord("{")) | (codes == ord("["))
        closes = (codes == ord("}")) | (codes == ord("]"))
        depths = self.depth + np.cumsum(opens.astype(np.int64) - closes)
        if depths.size:
            self.depth = int(depths[-1])
            check_depth(int(depths.max()), self._where)
        return block

    def _without_texts(self, block: bytes) -> bytes:
        data = self._cut + block
        self._cut = b""
        return _TEXT.sub(self._drop, data)

    def _drop(self, text: re.Match[bytes]) -> bytes:
        if text[1] is not None:
            self._cut = b'"' + text[1]
        return b""


def check_nesting(raw: bytes, where: str) -> None:
    """Raise ValueError for a JSON text that nests too deep, before it is parsed."""
    stream = ShallowStream(where, io.BytesIO(raw))
    while stream.read(BLOCK):
        pass


def check_depth(depth: int, where: str) -> None:
    """Raise ValueError for JSON of too many lists and objects inside one another."""
    if depth > MAX_DEPTH:
        raise ValueError(
            f"{where}: lists and objects lie more than {MAX_DEPTH} deep in one another, which no "
            "format of these files does"
        )


def check_whole(file: Path) -> None:
    """Refuse a large WebP or AVIF: opening it for its size alone reads all of it.

    Raises:
        TooLargeError: It has more than `MAX_WHOLE` bytes.
    """
    size = file.stat().st_size
    if size <= MAX_WHOLE:
        return
    with open(file, "rb") as opened:
        head = opened.read(12)
    if (head[:4], head[8:]) == (b"RIFF", b"WEBP") or head[4:8] == b"ftyp":
        raise TooLargeError(
            f"{file}: {size >> 20} MB, which a WebP or AVIF takes in memory twice, and at most "
            f"{MAX_WHOLE >> 20} MB are read so: convert it to MP4, or scale it down"
        )


def check_bytes(size: int, pixels: int, where: str) -> None:
    """Raise TooLargeError for an image file of far more bytes than its picture can have."""
    if size > 16 * pixels + MAX_EXTRAS:
        raise TooLargeError(
            f"{where} has {size} bytes for a picture of {pixels} pixels: save it without extras"
        )


def check_text(size: int, where: str) -> None:
    """Raise ValueError for a file of annotations that is too large to be read at once."""
    if size > MAX_TEXT:
        raise ValueError(
            f"{where} has {size} bytes, more than {MAX_TEXT}: no annotations of these data sets "
            "are as large; download it again, or divide it"
        )


def refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which JSON does not have but Python reads."""
    raise ValueError(f"{name} is no number")
