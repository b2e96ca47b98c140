"""Reads ReasonSeg: images, each a video of one frame.

    <root>/<split>/<name>.jpg, <name>.json    labelme: {"text": [..], "is_sentence", "shapes": [{"label", "points"}]}

Splits: train, val, test. The mask is what LISA draws: the larger a polygon, the earlier it is drawn (outline and
filling), so that small ones stay visible; label "flag" is skipped, a label that contains "ignore" is pixels that do
not count, all else is the target. Files are UTF-8, or cp1252. In train every sentence is a sample; in val and test the
first one alone counts, as in the published evaluation.

`Sample.kind` is "long" (a sentence) or "short" (a phrase), by which the test set is reported; the note `ignore_F` is the
mask of the pixels that do not count, None where there are none.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.masks import encode
from core.types import Notes, Rle, Sample, Target, Video
from data.masks.lazy import LazyMasks
from data.readers.fields import Faults, image_size, load_json, value

ENCODINGS = ("utf-8", "cp1252")


@dataclass(frozen=True, eq=False)
class DrawnMask(LazyMasks):
    """The target of one labelme file, drawn when asked for: the mask of one frame."""

    file: str
    height: int
    width: int

    def __len__(self) -> int:
        return 1

    def all(self) -> tuple[Rle | None, ...]:
        return (_drawn(self.file, self.height, self.width)[0],)


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All sentences, in the order of the names of the images; `uid` is "<name>/<place of the sentence>"."""
    folder = Path(root) / split
    faults = faults or Faults()
    if not folder.is_dir():
        found = sorted(path.name for path in Path(root).glob("*/") if any(path.glob("*.json")))
        raise ValueError(
            f"{folder}: no such folder; splits under {root}: {', '.join(found) or 'none'} (data.root)"
        )
    names = sorted(
        name.removesuffix(".jpg") for name in os.listdir(folder) if name.endswith(".jpg")
    )
    for name in sorted(
        {f.removesuffix(".json") for f in os.listdir(folder) if f.endswith(".json")} - set(names)
    ):
        faults.report(
            f"{folder / name}.jpg is missing, but there is {name}.json: download it again"
        )
    samples: list[Sample] = []
    for name in names:
        with faults.noted():
            samples += _read_image(folder, name, first_only=split != "train")
    return samples


def _read_image(folder: Path, name: str, first_only: bool) -> list[Sample]:
    file = folder / f"{name}.json"
    content = load_json(file, dict, ENCODINGS)
    texts = value(content, "text", list, str(file))
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{file}: "text" is {texts!r:.60}, not a list of one or more sentences')
    kind = "long" if value(content, "is_sentence", bool, str(file)) else "short"
    shapes = _shapes(content, str(file))
    height, width = image_size(folder / f"{name}.jpg")
    video = Video(name, str(folder), (name,), height, width)
    targets = (Target(name, DrawnMask(str(file), height, width)),)
    notes = Notes()
    if any("ignore" in label for label, _ in shapes):
        ignored = _drawn(str(file), height, width)[1]
        notes = Notes(ignore_F=(ignored,) if ignored else None)
    chosen = texts[:1] if first_only else texts
    return [
        Sample(f"{name}/{i}", video, text, targets, kind, notes) for i, text in enumerate(chosen)
    ]


def _shapes(content: Any, where: str) -> list[tuple[str, np.ndarray]]:
    """(label in small letters, corner points (N, 2) int32) of all that is drawn."""
    found = []
    for i, shape in enumerate(value(content, "shapes", list, where)):
        label = value(shape, "label", str, f"{where}: shape {i}").lower()
        if label == "flag":
            continue
        points = value(shape, "points", list, f"{where}: shape {i}")
        try:
            corners_N2 = np.array(points, np.float64).astype(np.int32)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f'{where}: shape {i}: "points" is {points!r:.60}, not a list of [x, y]'
            ) from error
        if corners_N2.ndim != 2 or corners_N2.shape[1] != 2 or not len(corners_N2):
            raise ValueError(
                f'{where}: shape {i}: "points" is {points!r:.60}, not a list of [x, y]'
            )
        found.append((label, corners_N2))
    return found


@functools.lru_cache(maxsize=512)
def _drawn(file: str, height: int, width: int) -> tuple[Rle | None, Rle | None]:
    """The encodings of the target and of the pixels that do not count; None where there are none."""
    shapes = _shapes(load_json(Path(file), dict, ENCODINGS), file)
    areas = [
        int(_draw(np.zeros((height, width), np.uint8), corners_N2, 1).sum())
        for _, corners_N2 in shapes
    ]
    canvas_HW = np.zeros((height, width), np.uint8)
    for i in np.argsort(areas, kind="stable")[::-1]:
        label, corners_N2 = shapes[i]
        _draw(canvas_HW, corners_N2, 255 if "ignore" in label else 1)
    masks = (canvas_HW == 1, canvas_HW == 255)
    return tuple(encode(mask_HW) if mask_HW.any() else None for mask_HW in masks)  # type: ignore[return-value]


def _draw(canvas_HW: np.ndarray, corners_N2: np.ndarray, number: int) -> np.ndarray:
    cv2.polylines(canvas_HW, [corners_N2], True, number, 1)
    cv2.fillPoly(canvas_HW, [corners_N2], number)
    return canvas_HW
