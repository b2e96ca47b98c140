"""Folders and images as people pack them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from data.frames.images import image_size, read_image
from data.frames.probing import probe
from data.frames.reading import read_frames
from data.load import load_samples
from data.prepare.check import problems
from data.prepare.verify import broken_frames
from tests.data.fixtures import dump
from tests.data.frames.test_drawn_videos import HEIGHT, WIDTH, barred
from tests.data.frames.test_odd_videos import number_on

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def save(file: Path, number: int, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(barred(number)).save(file, **options)


def shown(path: Path) -> list[int]:
    video = probe(path)
    frames_nHWC = read_frames(video, range(video.num_frames))
    return [number_on(image_HWC) for image_HWC in frames_nHWC]


def test_files_that_begin_with_a_dot_are_no_frames(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"0000{number}.jpg", number, quality=95)
        (tmp_path / f"._0000{number}.jpg").write_bytes(APPLE_DOUBLE)
    assert shown(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    "suffix", [".JPG", ".Jpeg", ".png", ".PNG", ".webp", ".bmp", ".tif", ".TIFF", ".avif"]
)
def test_images_of_every_type_are_read_and_found_well(suffix: str, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "clips/v" / f"0000{number}{suffix}", number)
    assert shown(tmp_path / "clips/v") == [0, 1, 2]

    expressions = [{"exp": "a dog", "objects": ["o"]}]
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(3):
        Image.new("L", (WIDTH, HEIGHT), 255).save(masks / f"0000{number}.PNG")
    (masks / "._00000.png").write_bytes(APPLE_DOUBLE)
    entry = {"path": "clips/v", "objects": {"o": "masks"}, "expressions": expressions}
    dump(tmp_path / "val.json", {"videos": {"v": entry}})
    assert problems("own", str(tmp_path), "val") == []
    [sample] = load_samples("own", str(tmp_path), "val")
    assert all(sample.targets[0].masks_F)


def test_masks_beside_their_pictures_are_no_frames(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.jpg", number, quality=95)
        Image.new("P", (WIDTH, HEIGHT)).save(tmp_path / f"{number}.png")
    assert shown(tmp_path) == [0, 1, 2]
    save(tmp_path / "1.webp", 7)
    with pytest.raises(ValueError, match=r"1\.jpg and 1\.png have one name: which is the frame"):
        probe(tmp_path)


def test_other_digits_in_names_are_letters(tmp_path: Path) -> None:
    for number, name in enumerate(["2.png", "10.png", "²1.png", "٣.png"]):
        save(tmp_path / name, number)
    assert sorted(shown(tmp_path)) == [0, 1, 2, 3]


def test_a_folder_whose_name_is_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    save(folder / "0.png", 6)
    assert shown(folder) == [6]


# EXIF orientations and what a viewer does to the stored picture.
ORIENTATIONS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: np.rot90(image, 2),
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation(suffix: str, orientation: int, tmp_path: Path) -> None:
    plain = tmp_path / f"plain{suffix}"
    turned = tmp_path / f"turned{suffix}"
    save(plain, 77)
    exif = Image.Exif()
    exif[274] = orientation
    save(turned, 77, exif=exif)
    expected = ORIENTATIONS[orientation](read_image(plain))
    assert image_size(turned) == expected.shape[:2]
    np.testing.assert_array_equal(read_image(turned), expected)
    assert broken_frames(probe(turned)) == []


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_a_cut_image_is_named_wherever_it_is_read(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"0{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(file)
    video = probe(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"0\{suffix} is not a readable image .*frame 0 of 1"):
        read_frames(video, [0])
    [text] = broken_frames(video)
    assert f"0{suffix}" in text


def test_a_preview_in_a_cut_jpeg_does_not_hide_the_cut(tmp_path: Path) -> None:
    preview = tmp_path / "preview.jpg"
    save(preview, 3)
    file = tmp_path / "0.jpg"
    save(file, 5)
    data = preview.read_bytes()
    whole = file.read_bytes()
    segment = b"\xff\xe2" + (len(data) + 2).to_bytes(2) + data
    file.write_bytes(whole[:2] + segment + whole[2:])
    assert shown(file) == [5]
    file.write_bytes((whole[:2] + segment + whole[2:])[:-300])
    with pytest.raises(ValueError, match=r"0\.jpg is not a readable image"):
        read_image(file)


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif", ".avif", ".gif"])
def test_an_animation_is_a_clip(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    pictures = [Image.fromarray(barred(number)) for number in range(5)]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=100)
    assert shown(file) == [0, 1, 2, 3, 4]
    assert number_on(read_frames(probe(file), [3])[0]) == 3
    assert broken_frames(probe(file)) == []


def test_pictures_beside_a_photo_are_no_frames(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    preview = Image.fromarray(barred(9)).resize((WIDTH // 2, HEIGHT // 2))
    photo = Image.fromarray(barred(5))
    photo.save(file, format="MPO", save_all=True, append_images=[preview], quality=95)
    with Image.open(file) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    assert shown(file) == [5]
    assert broken_frames(probe(file)) == []


def test_the_still_picture_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    pictures = [Image.fromarray(barred(number)) for number in (9, 1, 2)]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], default_image=True)
    assert shown(file) == [1, 2]
    assert number_on(read_frames(probe(file), [1])[0]) == 2


def test_small_copies_in_a_tiff_are_no_frames(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    small = Image.fromarray(barred(9)).resize((WIDTH // 2, HEIGHT // 2))
    reduced = ImageFileDirectory_v2()
    reduced[254] = 1
    small.encoderinfo = {"tiffinfo": reduced}
    pictures = [Image.fromarray(barred(number)) for number in (5, 6)]
    pictures[0].save(file, save_all=True, append_images=[small, pictures[1]])
    assert shown(file) == [5, 6]


def test_sixteen_bits_are_read_as_before(tmp_path: Path) -> None:
    deep = (barred(9).astype(np.uint16) * 257)[..., ::-1]
    assert cv2.imwrite(str(tmp_path / "0.png"), deep)
    np.testing.assert_array_equal(read_image(tmp_path / "0.png"), barred(9))
