"""Texts in any script on pictures: the font of each letter, and the order of right-to-left texts.

Noto has one font for each script. A text is divided into pieces of one font, and raqm (in Pillow)
shapes each piece. In a text that begins right to left, the pieces go from right to left.
"""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont
from PIL import ImageDraw, ImageFont

# Packages of fonts, and where these lie in them. DejaVu comes with MLflow's dependencies.
FONTS = (
    ("manimgx_fonts", "NotoSans[[]wght].ttf"),
    ("manimgx_fonts", "*.ttf"),
    ("manimgx_fonts_cjk", "*.ttc"),
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf"),
)
# The weight of normal letters.
REGULAR = 400
RIGHT_TO_LEFT = ("R", "AL")
STRONG = ("L", *RIGHT_TO_LEFT)
# Kinds of letters that change the one before them.
MARKS = ("Mn", "Me", "Mc", "Cf")

Ink = int | tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Lettering:
    """Letters of one size.

    Attributes:
        size: In pixels.
    """

    size: int

    def getlength(self, text: str) -> float:
        """Return the width of a line in pixels."""
        return sum(_font(file, self.size).getlength(piece) for file, piece in _pieces(text))

    def draw(
        self, image: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Ink
    ) -> None:
        """Write a line; `place` is its upper left corner."""
        x, y = place
        pieces = list(_pieces(text))
        if is_right_to_left(text):
            pieces.reverse()
        # All letters stand on one line, whatever their font.
        base = y + self.size
        for file, piece in pieces:
            font = _font(file, self.size)
            image.text((x, base), piece, colour, font, anchor="ls")
            x += font.getlength(piece)


def is_right_to_left(text: str) -> bool:
    """Return whether the first letter with a direction goes from right to left."""
    for letter in text:
        kind = unicodedata.bidirectional(letter)
        if kind in STRONG:
            return kind in RIGHT_TO_LEFT
    return False


def clusters(text: str) -> list[str]:
    """Return the letters of a text, each with the marks that change it."""
    found: list[str] = []
    for letter in text:
        if found and unicodedata.category(letter) in MARKS:
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _pieces(text: str) -> Iterator[tuple[Path | None, str]]:
    """Divide a text into pieces of one font; None is Pillow's own.

    Spaces between two fonts are pieces too, so that they stay between.
    """
    for file, piece in _by_font(text):
        letters = piece.rstrip()
        if letters:
            yield file, letters
        if letters != piece:
            yield file, piece[len(letters) :]


def _by_font(text: str) -> Iterator[tuple[Path | None, str]]:
    piece = ""
    of_piece: Path | None = None
    for letter in text:
        # Spaces and marks go with what is before them.
        joins = letter.isspace() or unicodedata.category(letter) in MARKS
        file = of_piece if joins and piece else _file_of(letter)
        if piece and file != of_piece:
            yield of_piece, piece
            piece = ""
        of_piece = file
        piece += letter
    if piece:
        yield of_piece, piece


@functools.lru_cache(maxsize=4096)
def _file_of(letter: str) -> Path | None:
    """Return the first font with a letter; the first of all if none has it."""
    files = font_files()
    for file in files:
        if ord(letter) in _letters(file):
            return file
    return files[0] if files else None


@functools.cache
def font_files() -> tuple[Path, ...]:
    """Return the fonts that are installed, in the order in which they are tried."""
    found: dict[Path, None] = {}
    for package, pattern in FONTS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            continue
        for folder in spec.submodule_search_locations:
            found |= dict.fromkeys(sorted(Path(folder).glob(pattern)))
    return tuple(found)


@functools.cache
def _letters(file: Path) -> frozenset[int]:
    """Return the letters of a font."""
    if file.suffix == ".ttc":
        with TTCollection(file, lazy=True) as fonts:
            return frozenset(fonts[0].getBestCmap())
    with TTFont(file, lazy=True) as font:
        return frozenset(font.getBestCmap())


@functools.cache
def _font(file: Path | None, size: int) -> Font:
    if file is None:
        return ImageFont.load_default(size)
    font = ImageFont.truetype(file, size)
    if "wght" in file.name or file.suffix == ".ttc":
        font.set_variation_by_axes([REGULAR])
    return font
