"""Videos as files hold them: the true size and number of frames, for videos without annotations.

    video = probe("clips/kitchen.mp4")

The path names a video file, an image, or a folder of images.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from core.types import Video
from data.frames.decoders import facts
from data.frames.images import IMAGE_SUFFIXES
from data.frames.reading import frame_size


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
        return _probe_images(path, path.parent), None
    return _probe_file(path)


def _probe_images(path: Path, folder: Path) -> Video:
    """Return the video of one image, or of all images of a folder."""
    files = [path]
    if path.is_dir():
        files = list(folder.iterdir())
    names = []
    for file in files:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            names.append(file.name)
    if not names:
        known = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{path}: no image in this folder; known are {known}")

    names.sort(key=_as_people_count)
    height, width = frame_size(str(folder), names)
    return Video(path.stem, str(folder), tuple(names), height, width)


def _probe_file(path: Path) -> tuple[Video, Fraction]:
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    found = facts(str(path))
    names = tuple(f"{index:05d}" for index in range(found["frames"]))
    height = found["height"]
    width = found["width"]
    video = Video(path.stem, str(path), names, height, width)
    return video, Fraction(*found["rate"])


def _as_people_count(name: str) -> list[int | str]:
    """Split a name into texts and numbers, to sort by."""
    parts: list[int | str] = []
    for part in re.split(r"(\d+)", name):
        parts.append(int(part) if part.isdigit() else part)
    return parts
