"""Masks that lie in PNG files, one file for each frame, decoded when asked for.

A palette PNG holds all objects of a frame, each under its number (`label`); a folder of one object holds PNGs in which
every pixel that is not zero is the object (`label` None). `PngMasks` are the masks of one object; they pickle as folder
and label. Knows no expression and no JSON.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core.masks import encode
from core.types import Rle
from data.masks.lazy import LazyMasks

_KEPT = 512  # encoded objects in this process: about 50 MB at 100 frames


@dataclass(frozen=True, eq=False)
class PngMasks(LazyMasks):
    """The masks of one object: `<folder>/<name>.png` for each name; None where the object is not visible.

    A missing file is an object that is not visible (`missing_is_none`, as Long-RVOS does it), or a ValueError on
    reading, as are a damaged file, one that is no palette PNG where a label is asked for, and one of another size.
    """

    folder: str
    names_F: tuple[str, ...]
    label: int | None
    height: int
    width: int
    missing_is_none: bool = False

    def __len__(self) -> int:
        return len(self.names_F)

    def all(self) -> tuple[Rle | None, ...]:
        return _all(
            self.folder, self.names_F, self.label, self.height, self.width, self.missing_is_none
        )


@functools.lru_cache(maxsize=_KEPT)
def _all(
    folder: str,
    names_F: tuple[str, ...],
    label: int | None,
    height: int,
    width: int,
    missing_is_none: bool,
) -> tuple[Rle | None, ...]:
    return tuple(_read(folder, name, label, height, width, missing_is_none) for name in names_F)


def _read(
    folder: str, name: str, label: int | None, height: int, width: int, missing_is_none: bool
) -> Rle | None:
    file = Path(folder) / f"{name}.png"
    if missing_is_none and not file.is_file():
        return None
    values = read_png(file, palette=label is not None)
    if values.shape[:2] != (height, width):
        raise ValueError(
            f"{file}: the mask is {values.shape[0]} x {values.shape[1]} (height x width), but the frames of its video "
            f"are {height} x {width}: use frames and masks of one release of the data"
        )
    mask_HW = values == label if label is not None else values != 0
    return encode(mask_HW) if mask_HW.any() else None


def read_png(file: Path, palette: bool) -> np.ndarray:
    """What a PNG says at each pixel, (height, width): the number of its palette, or its grey value. Colours, which no
    object's number can be read from, count as the largest channel, or are a ValueError where a palette is needed."""
    try:
        with Image.open(file) as image:
            mode = image.mode
            values = np.asarray(image)
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a readable PNG ({error}): download it again") from error
    if values.ndim == 2:
        return values
    if palette:
        raise ValueError(
            f"{file}: a {mode} picture has no numbers of objects: a palette PNG is needed, as published"
        )
    return np.asarray(values[..., :3].max(axis=-1) if mode in ("RGB", "RGBA") else values[..., 0])
