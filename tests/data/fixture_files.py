"""What small data sets are made of: frames, masks of every kind, JSON; and what a reader must find in them."""

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
NAMES = ("00000", "00005", "00010", "00015")  # every fifth frame, as in YouTube-VOS and MeViS


@dataclass(frozen=True)
class Expected:
    query: str
    kind: str
    masks_FHW: np.ndarray | None
    notes: dict[str, Any] = field(default_factory=dict)  # some of those that must be there


@dataclass(frozen=True)
class Written:
    root: Path
    split: str
    expected: dict[str, Expected]  # by the uid of the sample, in the order of reading


def blob(number: int, frames: int = len(NAMES)) -> np.ndarray:
    """A rectangle that moves; it is not there in every third frame."""
    masks_FHW = np.zeros((frames, HEIGHT, WIDTH), bool)
    for f in range(frames):
        if f % 3 != 1:
            masks_FHW[f, 2 + number : 9 + number, 3 * number + f : 3 * number + f + 8] = True
    return masks_FHW


def images(folder: Path, names: Sequence[str] = NAMES, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        frame_HWC = np.full((HEIGHT, WIDTH, 3), 40 * i % 256, np.uint8)
        assert cv2.imwrite(str(folder / f"{name}{suffix}"), frame_HWC)


def rles(masks_FHW: np.ndarray) -> list[Any]:
    """As MeViS writes them: null where there is nothing."""
    return [dict(encode(mask_HW)) if mask_HW.any() else None for mask_HW in masks_FHW]


def palette_png(file: Path, values_HW: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values_HW.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 236, 95, 103, 249, 145, 87, 250, 200, 99])  # YouTube-VOS'
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
    """Black and white; without `empty`, frames without the object have no file."""
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
            frame = av.VideoFrame.from_ndarray(
                np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
