"""Videos as files hold them: the true size and number of frames, for videos without annotations.

    video = probe("clips/kitchen.mp4")

The path names a video file, an image, or a folder of images.
"""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from core.types import Video
from data.frames.decoders import facts, times
from data.frames.images import (
    IMAGE_SUFFIXES,
    image_size,
    is_hidden,
    is_image,
    is_mask,
    num_pages,
)
from data.frames.reading import frame_size

# Photos of phones, which come in tiles.
HEIC_SUFFIXES = (".heic", ".heif")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".ogv", ".ivf", ".gif"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".wmv", ".asf", ".flv"),
    *(".mjpeg", ".h264", ".hevc"),
)


def probe(path: str | Path) -> Video:
    """Return a video as its file holds it, also where the frame rate varies.

    An image is a video of one frame. The images of a folder are sorted as people count: frame 2
    comes before frame 10.

    Raises:
        ValueError: The path is missing, empty, unreadable, or without pictures.
    """
    return probe_with_rate(path)[0]


def probe_with_rate(path: str | Path) -> tuple[Video, Fraction | None]:
    """Return a video as `probe` does, and its mean frames a second; None for images."""
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise ValueError(
            f"{path}: no such file or folder; give a video file, an image, or a folder of images"
        )
    if path.is_dir():
        return _probe_images(path, path), None
    if path.suffix.lower() in IMAGE_SUFFIXES:
        if num_pages(path) > 1:
            return _probe_pages(path), None
        return _probe_images(path, path.parent), None
    return _probe_file(path)


def varying_times(video: Video, rate: Fraction | None) -> tuple[float, ...] | None:
    """Return the seconds of each frame of a video file whose rate varies; None if it is steady.

    Args:
        rate: Its mean frames a second, from `probe_with_rate`.
    """
    if rate is None or not Path(video.path).is_file():
        return None
    times_F = np.array(times(video.path))
    if len(times_F) != video.num_frames:
        return None
    steady_F = times_F[0] + np.arange(len(times_F)) / float(rate)
    # Half a frame: containers that count milliseconds are steady too.
    if abs(times_F - steady_F).max() * float(rate) < 0.5:
        return None
    return tuple(times_F.tolist())


def _probe_images(path: Path, folder: Path) -> Video:
    """Return the video of one image, or of all images of a folder."""
    names = [path.name]
    if path.is_dir():
        names = _frames_in(folder)
    if not names:
        known = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{path}: no image in this folder; known are {known}")

    names.sort(key=as_people_count)
    height, width = frame_size(str(folder), names)
    return Video(path.stem, str(folder), tuple(names), height, width)


def _frames_in(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder.

    Raises:
        ValueError: Some of them would be left out, or as `_without_masks`.
    """
    listed = sorted(os.listdir(folder))
    for name in listed:
        if not is_hidden(name) and name.lower().endswith(HEIC_SUFFIXES):
            raise ValueError(f"{folder / name}: HEIC photos cannot be read: convert them to JPEG")
    return _without_masks(folder, [name for name in listed if is_image(name)])


def check_sizes(video: Video) -> None:
    """Look at the headers of all images of a folder, for callers that start much for one video.

    Raises:
        ValueError: One cannot be read, or is of another size than the first.
    """
    folder = Path(video.path)
    if not folder.is_dir():
        return
    for name in video.frame_names:
        file = folder / name
        height, width = image_size(file)
        if (height, width) != (video.height, video.width):
            raise ValueError(
                f"{file} is {height} x {width} (height x width), but the first image of its folder "
                f"is {video.height} x {video.width}: scale all images to one size"
            )


def _without_masks(folder: Path, names: list[str]) -> list[str]:
    """Return the pictures of a folder without the masks beside them: 1.png beside 1.jpg.

    Raises:
        ValueError: Two pictures have one name, and neither is a mask.
    """
    by_stem: dict[str, list[str]] = {}
    for name in sorted(names):
        by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
    kept = []
    for several in by_stem.values():
        shown = several
        if len(several) > 1:
            shown = [name for name in several if not is_mask(folder / name)]
        if len(shown) != 1:
            raise ValueError(
                f"{folder}: {several[0]} and {several[1]} have one name: which is the frame? Put "
                "masks into a folder of their own, or give each picture its own name"
            )
        kept += shown
    return kept


def _probe_pages(path: Path) -> Video:
    """Return an animation, or a TIFF of pages, as a video."""
    names = tuple(f"{index:05d}" for index in range(num_pages(path)))
    height, width = image_size(path)
    return Video(path.stem, str(path), names, height, width)


def _probe_file(path: Path) -> tuple[Video, Fraction]:
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    found = facts(str(path))
    names = tuple(f"{index:05d}" for index in range(found["frames"]))
    height = found["height"]
    width = found["width"]
    video = Video(path.stem, str(path), names, height, width)
    return video, Fraction(*found["rate"])


def as_people_count(name: str) -> list[int | str]:
    """Split a name into texts and numbers, to sort by."""
    parts: list[int | str] = []
    # Other digits, as in "²", are letters here.
    for part in re.split(r"([0-9]+)", name):
        parts.append(int(part) if part[:1].isascii() and part.isdecimal() else part)
    return parts
