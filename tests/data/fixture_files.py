"""The parts of small data sets: frames, masks of every kind, JSON, and the expected samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from core.masks import encode

HEIGHT = 24
WIDTH = 32
# Every fifth frame, as in YouTube-VOS and MeViS.
NAMES = ("00000", "00005", "00010", "00015")


@dataclass(frozen=True)
class Expected:
    """A sample as a reader must return it.

    Attributes:
        notes: Some of its notes, by the name of the field.
    """

    query: str
    kind: str
    masks_FHW: np.ndarray | None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A data set on disk, with its expected samples by their uid, in the order of reading."""

    root: Path
    split: str
    expected: dict[str, Expected]


def blob(number: int, frames: int = len(NAMES)) -> np.ndarray:
    """Return the masks of a moving rectangle, missing in every third frame."""
    masks_FHW = np.zeros((frames, HEIGHT, WIDTH), bool)
    for f in range(frames):
        if f % 3 == 1:
            continue
        top = 2 + number
        left = 3 * number + f
        masks_FHW[f, top : top + 7, left : left + 8] = True
    return masks_FHW


def images(
    folder: Path,
    names: Sequence[str] = NAMES,
    suffix: str = ".jpg",
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        grey = 40 * i % 256
        frame_HWC = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
        assert cv2.imwrite(str(folder / f"{name}{suffix}"), frame_HWC)


def rles(masks_FHW: np.ndarray) -> list[Any]:
    """Return masks as MeViS writes them, with null for an empty one."""
    encodings: list[Any] = []
    for mask_HW in masks_FHW:
        encodings.append(dict(encode(mask_HW)) if mask_HW.any() else None)
    return encodings


def palette_png(file: Path, values_HW: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values_HW.astype(np.uint8), "P")
    # The palette of YouTube-VOS.
    black = (0, 0, 0)
    red = (236, 95, 103)
    orange = (249, 145, 87)
    yellow = (250, 200, 99)
    image.putpalette([*black, *red, *orange, *yellow])
    image.save(file)


def palette_pngs(
    folder: Path, objects: dict[int, np.ndarray], names: Sequence[str] = NAMES
) -> None:
    for f, name in enumerate(names):
        values_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, masks_FHW in objects.items():
            values_HW[masks_FHW[f]] = number
        palette_png(folder / f"{name}.png", values_HW)


def object_pngs(
    folder: Path, masks_FHW: np.ndarray, names: Sequence[str] = NAMES, empty: bool = True
) -> None:
    """Write black and white masks; without `empty`, no file for a frame without the object."""
    folder.mkdir(parents=True, exist_ok=True)
    for mask_HW, name in zip(masks_FHW, names, strict=True):
        if empty or mask_HW.any():
            Image.fromarray(mask_HW.astype(np.uint8) * 255).save(folder / f"{name}.png")


def dump(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def mp4(file: Path, frames: int = len(NAMES)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = HEIGHT
        stream.width = WIDTH
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            frame_HWC = np.full((HEIGHT, WIDTH, 3), 40 * i % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
