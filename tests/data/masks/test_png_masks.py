"""Masks in PNG files: palettes, folders of one object, and wrong files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import masks
from data.masks.png_masks import PngMasks, read_png

NAMES = ("00000", "00005", "00010")


def palette(file: Path, values_HW: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values_HW.astype(np.uint8), "P")
    # The colours of DAVIS and YouTube-VOS.
    black = (0, 0, 0)
    red = (128, 0, 0)
    green = (0, 128, 0)
    image.putpalette([*black, *red, *green])
    image.save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        values_HW = np.zeros((6, 8), np.uint8)
        values_HW[1:3, i:] = 1
        # Object 2 is not visible in the second frame.
        if i != 1:
            values_HW[4:, :4] = 2
        palette(tmp_path / f"{name}.png", values_HW)
    return tmp_path


def test_palette_numbers_are_objects(folder: Path) -> None:
    one = PngMasks(str(folder), NAMES, 1, 6, 8)
    two = PngMasks(str(folder), NAMES, 2, 6, 8)
    three = PngMasks(str(folder), NAMES, 3, 6, 8)
    assert [masks.area(rle) for rle in one if rle] == [16, 14, 12]
    assert two[1] is None
    assert two[0] is not None
    assert masks.box(two[0]) == (0, 4, 4, 6)
    assert tuple(three) == (None, None, None)
    assert one == tuple(one)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one[1:] == tuple(one)[1:]


def test_every_pixel_that_is_not_zero_is_the_object(tmp_path: Path) -> None:
    values_HW = np.zeros((6, 8), np.uint8)
    values_HW[2, 3:5] = 255
    Image.fromarray(values_HW).save(tmp_path / "00000.png")
    grey_HWC = np.stack([values_HW] * 3, axis=2)
    Image.fromarray(grey_HWC).save(tmp_path / "00005.png")
    found = PngMasks(str(tmp_path), NAMES, None, 6, 8, missing_is_none=True)
    first, second, missing = found
    assert first is not None
    assert masks.area(first) == 2
    assert second is not None
    assert masks.area(second) == 2
    assert missing is None


def test_wrong_files(folder: Path) -> None:
    wide = PngMasks(str(folder), NAMES, 1, 6, 9)
    message = r"00000.png: the mask is 6 x 8 \(height x width\), but the frames .* 6 x 9"
    with pytest.raises(ValueError, match=message):
        wide[0]

    one = PngMasks(str(folder), NAMES, 1, 6, 8)
    file = folder / "00005.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match="00005.png is not a readable PNG"):
        one[0]
    file.unlink()
    with pytest.raises(ValueError, match="00005.png is missing"):
        one[0]

    colours_HWC = np.zeros((6, 8, 3), np.uint8)
    Image.fromarray(colours_HWC).save(folder / "00010.png")
    with pytest.raises(ValueError, match="00010.png: a RGB picture has no numbers of objects"):
        read_png(folder / "00010.png", (6, 8), palette=True)
