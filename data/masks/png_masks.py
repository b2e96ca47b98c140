"""Masks in PNG files, one file for each frame, decoded on demand.

A palette PNG holds all objects of a frame, each under its number, the `label`. A folder of one
object holds PNGs in which every pixel that is not 0 is the object; then `label` is None.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core.masks import encode
from core.types import Rle
from data.bounds import TooLargeError, check_whole
from data.frames.images import first_file
from data.masks.lazy import LazyMasks

# Encoded objects that a process keeps: about 50 MB at 100 frames.
_KEPT = 512


@dataclass(frozen=True, eq=False)
class PngMasks(LazyMasks):
    """The masks of one object: `<folder>/<name>.png` for each name, None for a frame without it.

    Reading raises a ValueError for a damaged file, one of another size, and one that is no palette
    PNG although there is a label.

    Attributes:
        missing_is_none: True if the object is invisible in a frame without a file, as in Long-RVOS;
            otherwise a missing file is a ValueError.
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
        return _masks(
            self.folder, self.names_F, self.label, self.height, self.width, self.missing_is_none
        )


@functools.lru_cache(maxsize=_KEPT)
def _masks(
    folder: str,
    names_F: tuple[str, ...],
    label: int | None,
    height: int,
    width: int,
    missing_is_none: bool,
) -> tuple[Rle | None, ...]:
    masks: list[Rle | None] = []
    for name in names_F:
        place = os.path.join(folder, name)
        file = first_file(place, (".png",)) or Path(f"{place}.png")
        if missing_is_none and not file.is_file():
            masks.append(None)
        else:
            masks.append(_mask(file, label, height, width))
    return tuple(masks)


def _mask(file: Path, label: int | None, height: int, width: int) -> Rle | None:
    values_HW = read_png(file, (height, width), palette=label is not None)
    if label is None:
        mask_HW = values_HW != 0
    else:
        mask_HW = values_HW == label
    return encode(mask_HW) if mask_HW.any() else None


class WrongSizeError(ValueError):
    """A mask of another size than the frames of its video."""


def read_png(file: Path, size: tuple[int, int], palette: bool) -> np.ndarray:
    """Return the value of each pixel, (height, width): its palette number or grey value.

    The value of a coloured pixel is its largest channel.

    Args:
        size: Height and width that the picture must have; another one is a ValueError.
        palette: True if the values are numbers of objects; colours are then a ValueError.
    """
    try:
        check_whole(file)
        with Image.open(file) as image:
            mode = image.mode
            # Read off the header, before the pixels take their memory.
            _check_size(file, image.size[::-1], size)
            values = np.asarray(image)
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    except (WrongSizeError, TooLargeError):
        raise
    # A damaged picture raises almost anything.
    except Exception as error:
        raise ValueError(f"{file} is not a readable PNG ({error}): download it again") from error

    if values.ndim == 2:
        return values
    if palette:
        raise ValueError(
            f"{file}: a {mode} picture has no numbers of objects: a palette PNG is needed, as "
            "published"
        )
    if mode in ("RGB", "RGBA"):
        return np.asarray(values[..., :3].max(axis=-1))
    return np.asarray(values[..., 0])


def _check_size(file: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found != size:
        raise WrongSizeError(
            f"{file}: the mask is {found[0]} x {found[1]} (height x width), but the frames of its "
            f"video are {size[0]} x {size[1]}: use frames and masks of one release of the data"
        )
