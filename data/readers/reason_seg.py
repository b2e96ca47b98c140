"""Read ReasonSeg: images, each a video of one frame.

    <root>/<split>/<name>.jpg
    <root>/<split>/<name>.json    labelme
        {"text": [..], "is_sentence", "shapes": [{"label", "points"}]}

Splits: train, val, test. The mask is LISA's: the larger a polygon, the earlier it is drawn (outline
and filling), and small ones stay visible. Label "flag" is skipped, a label with "ignore" in it
marks pixels to ignore, everything else is the target. Files are UTF-8, cp1252 or GBK. In train
every sentence is a sample; in val and test the first one alone counts, as in the published
evaluation.

`Sample.kind` is "long" (a sentence) or "short" (a phrase), and the test set is reported by it. The
note `ignore_F` is the mask of the pixels to ignore, if any.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.masks import encode
from core.types import Notes, Rle, Sample, Target, Video
from data.bounds import check_corners
from data.fields import Faults, load_json, splits_found, value
from data.frames.images import image_size, stems_in, visible
from data.masks.lazy import LazyMasks

# Values on the canvas.
TARGET = 1
IGNORED = 255

# (label in small letters, corner points (N, 2) int32)
LabelledPolygon = tuple[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class PolygonMask(LazyMasks):
    """The target of one labelme file: the mask of one frame, drawn on demand."""

    file: str
    height: int
    width: int

    def __len__(self) -> int:
        return 1

    def all(self) -> tuple[Rle | None, ...]:
        return (_fill_polygons(self.file, self.height, self.width)[0],)


def read_reason_seg(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all sentences, sorted by the names of the images.

    `uid` is "<name>/<place of the sentence>".
    """
    root = Path(root)
    folder = root / split
    faults = faults or Faults()
    if not folder.is_dir():
        found = splits_found(
            path.name for path in root.glob("*/") if any(visible(path.glob("*.json")))
        )
        raise ValueError(f"{folder}: no such folder; splits under {root}: {found} (data.root)")

    images = stems_in(folder, ".jpg")
    described = stems_in(folder, ".json")
    for name in sorted(described - images):
        faults.report(
            f"{folder / name}.jpg is missing, but there is {name}.json: download it again"
        )

    samples: list[Sample] = []
    for name in sorted(images):
        with faults.noted():
            samples += _read_image(folder, name, first_only=split != "train")
    return samples


def _read_image(folder: Path, name: str, first_only: bool) -> list[Sample]:
    file = folder / f"{name}.json"
    content = load_json(file, dict, old_encodings=True)
    texts = value(content, "text", list, str(file))
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{file}: "text" is {texts!r:.60}, not a list of one or more sentences')
    is_sentence = value(content, "is_sentence", bool, str(file))
    kind = "long" if is_sentence else "short"
    height, width = image_size(folder / f"{name}.jpg")
    shapes = _shapes(content, height, width, str(file))

    video = Video(name, str(folder), (name,), height, width)
    targets = (Target(name, PolygonMask(str(file), height, width)),)
    notes = Notes()
    if any("ignore" in label for label, _ in shapes):
        notes = _notes_of_ignored(str(file), height, width)

    if first_only:
        texts = texts[:1]
    samples = []
    for i, text in enumerate(texts):
        samples.append(Sample(f"{name}/{i}", video, text, targets, kind, notes))
    return samples


def _notes_of_ignored(file: str, height: int, width: int) -> Notes:
    ignored = _fill_polygons(file, height, width)[1]
    return Notes(ignore_F=None if ignored is None else (ignored,))


def _shapes(content: Any, height: int, width: int, where: str) -> list[LabelledPolygon]:
    """Return the polygons to draw."""
    shapes = []
    for i, shape in enumerate(value(content, "shapes", list, where)):
        its = f"{where}: shape {i}"
        label = value(shape, "label", str, its).lower()
        if label == "flag":
            continue
        points = value(shape, "points", list, its)
        message = f'{its}: "points" is {points!r:.60}, not a list of [x, y]'
        try:
            corners_N2 = np.array(points, np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(message) from error
        if corners_N2.ndim != 2 or corners_N2.shape[1] != 2 or not len(corners_N2):
            raise ValueError(message)
        check_corners(corners_N2, height, width, f'{its}: "points"')
        shapes.append((label, corners_N2.astype(np.int32)))
    return shapes


@functools.lru_cache(maxsize=512)
def _fill_polygons(file: str, height: int, width: int) -> tuple[Rle | None, Rle | None]:
    """Return the masks of the target and of the pixels to ignore; None for an empty one."""
    shapes = _shapes(load_json(Path(file), dict, old_encodings=True), height, width, file)
    areas = []
    for _, corners_N2 in shapes:
        alone_HW = np.zeros((height, width), np.uint8)
        _draw_polygon(alone_HW, corners_N2, TARGET)
        areas.append(int(alone_HW.sum()))

    canvas_HW = np.zeros((height, width), np.uint8)
    largest_first = np.argsort(areas, kind="stable")[::-1]
    for i in largest_first:
        label, corners_N2 = shapes[i]
        _draw_polygon(canvas_HW, corners_N2, IGNORED if "ignore" in label else TARGET)
    return _encode_or_none(canvas_HW == TARGET), _encode_or_none(canvas_HW == IGNORED)


def _draw_polygon(canvas_HW: np.ndarray, corners_N2: np.ndarray, number: int) -> None:
    cv2.polylines(canvas_HW, [corners_N2], True, number, 1)
    cv2.fillPoly(canvas_HW, [corners_N2], number)


def _encode_or_none(mask_HW: np.ndarray) -> Rle | None:
    return encode(mask_HW) if mask_HW.any() else None
