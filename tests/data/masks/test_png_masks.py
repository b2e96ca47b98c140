"""Masks in PNG files: palettes, folders of one object, and files that are wrong."""

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
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # as in DAVIS and YouTube-VOS
    image.save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        values_HW = np.zeros((6, 8), np.uint8)
        values_HW[1:3, i:] = 1
        values_HW[4:, :4] = 2 if i != 1 else 0
        palette(tmp_path / f"{name}.png", values_HW)
    return tmp_path


def test_palette_numbers_are_objects(folder: Path) -> None:
    one, two = (PngMasks(str(folder), NAMES, label, 6, 8) for label in (1, 2))
    assert [masks.area(rle) for rle in one if rle] == [16, 14, 12]
    assert two[1] is None
    assert two[0] is not None
    assert masks.box(two[0]) == (0, 4, 4, 6)
    assert tuple(PngMasks(str(folder), NAMES, 3, 6, 8)) == (None, None, None)
    assert pickle.loads(pickle.dumps(one)) == one == tuple(one)
    assert one[1:] == tuple(one)[1:]


def test_every_pixel_that_is_not_zero_is_the_object(tmp_path: Path) -> None:
    values_HW = np.zeros((6, 8), np.uint8)
    values_HW[2, 3:5] = 255
    Image.fromarray(values_HW).save(tmp_path / "00000.png")
    Image.fromarray(np.repeat(values_HW[..., None], 3, 2)).save(tmp_path / "00005.png")
    found = PngMasks(str(tmp_path), NAMES, None, 6, 8, missing_is_none=True)
    assert [masks.area(rle) if rle else None for rle in found] == [2, 2, None]


def test_wrong_files(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"00000.png: the mask is 6 x 8 \(height x width\), but the frames .* 6 x 9",
    ):
        PngMasks(str(folder), NAMES, 1, 6, 9)[0]
    (folder / "00005.png").write_bytes((folder / "00005.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="00005.png is not a readable PNG"):
        PngMasks(str(folder), NAMES, 1, 6, 8)[0]
    (folder / "00005.png").unlink()
    with pytest.raises(ValueError, match="00005.png is missing"):
        PngMasks(str(folder), NAMES, 1, 6, 8)[0]
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "00010.png")
    with pytest.raises(ValueError, match="00010.png: a RGB picture has no numbers of objects"):
        read_png(folder / "00010.png", palette=True)
