"""Boxes, areas and points of every object in every frame, computed once and kept in one plain file for a split.

    table = target_table(video_uid, target)          # one object
    save(file, tables); load(file)[video_uid, target_uid]

The file is a numpy .npz of numbers and texts (read with `allow_pickle=False`): the tables of all objects behind one
another, and where each begins. This file knows no data set format and no process.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.masks import area, box, decode
from core.types import Rle, Sample, Target

Key = tuple[str, str]  # (video uid, target uid)
VERSION = 1  # of the file
ABSENT = -1  # coordinate of a point where nothing is visible


@dataclass(frozen=True)
class TargetTable:
    """One object; where it is not visible its area and box are 0 and its points are (-1, -1)."""

    video: str
    target: str
    boxes_F4: np.ndarray  # int32, tight: (x0, y0, x1, y1), x1 and y1 exclusive
    areas_F: np.ndarray  # int64, pixels
    centres_F2: (
        np.ndarray
    )  # int32 (x, y), a pixel of the mask: centre of the largest circle inside it
    centroids_F2: (
        np.ndarray
    )  # float32 (x, y), mean of the mask's pixels, to a hundredth; may lie off the mask

    @property
    def key(self) -> Key:
        return self.video, self.target


def target_table(video: str, target: Target) -> TargetTable:
    """The table of one object. Masks are decoded one at a time."""
    num = len(target.masks_F)
    boxes_F4 = np.zeros((num, 4), np.int32)
    areas_F = np.zeros(num, np.int64)
    centres_F2 = np.full((num, 2), ABSENT, np.int32)
    centroids_F2 = np.full((num, 2), ABSENT, np.float32)
    for frame, rle in enumerate(target.masks_F):
        if rle is not None and (pixels := area(rle)):
            areas_F[frame] = pixels
            boxes_F4[frame] = box(rle)
            centres_F2[frame], centroids_F2[frame] = _points(rle, boxes_F4[frame])
    return TargetTable(video, target.uid, boxes_F4, areas_F, centres_F2, centroids_F2)


def centre(mask_HW: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of a mask that is farthest from everything off the mask: centre of the largest inner circle.

    The maximum of the exact Euclidean distance transform (VisionReasoner's `prepare_dataset`); what lies outside of
    the array counts as off the mask. Of several maxima, as along the axis of a bar, the one nearest to their mean, so
    that the point is in the middle and always on the mask. The mask is bool and not empty.
    """
    assert mask_HW.any(), "an empty mask has no centre"
    padded = np.pad(mask_HW.astype(np.uint8), 1)
    distance_HW = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    best_N2 = np.argwhere(distance_HW >= distance_HW.max() - 1e-3)
    y, x = best_N2[((best_N2 - best_N2.mean(0)) ** 2).sum(1).argmin()]
    return int(x), int(y)


def centroid(mask_HW: np.ndarray) -> tuple[float, float]:
    """The mean (x, y) of a mask's pixels; the mask is bool and not empty."""
    y, x = np.argwhere(mask_HW).mean(0)
    return float(x), float(y)


def to_plain(table: TargetTable) -> dict[str, Any]:
    """Numbers and texts, for a line of JSON; `from_plain` gives the same table back."""
    return {
        "video": table.video,
        "target": table.target,
        "boxes": table.boxes_F4.tolist(),
        "areas": table.areas_F.tolist(),
        "centres": table.centres_F2.tolist(),
        "centroids": [[round(x, 2), round(y, 2)] for x, y in table.centroids_F2.tolist()],
    }


def from_plain(value: Mapping[str, Any]) -> TargetTable:
    num = len(value["areas"])
    return TargetTable(
        value["video"],
        value["target"],
        np.array(value["boxes"], np.int32).reshape(num, 4),
        np.array(value["areas"], np.int64),
        np.array(value["centres"], np.int32).reshape(num, 2),
        np.array(value["centroids"], np.float32).reshape(num, 2),
    )


def of_sample(tables: Mapping[Key, TargetTable], sample: Sample) -> list[TargetTable]:
    """The tables of a sample's targets, in their order; ValueError if one is not in the tables."""
    missing = [t.uid for t in sample.targets if (sample.video.uid, t.uid) not in tables]
    if missing:
        raise ValueError(
            f"the tables do not hold object {missing[0]!r} of video {sample.video.uid!r}: "
            "make them for this split with `python -m ray_jobs.prepare`"
        )
    return [tables[sample.video.uid, target.uid] for target in sample.targets]


def save(file: Path, tables: Iterable[TargetTable], made_from: str = "") -> None:
    """Writes one file, whole or not at all. `made_from`: a fingerprint that `fingerprint` reads back."""
    rows = list(tables)
    lengths = [len(row.areas_F) for row in rows]
    columns = {
        "version": np.array(VERSION),
        "made_from": np.array(made_from),
        "videos": np.array([row.video for row in rows], dtype=str),
        "targets": np.array([row.target for row in rows], dtype=str),
        "starts": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        "boxes_N4": _stack([row.boxes_F4 for row in rows], (0, 4), np.int32),
        "areas_N": _stack([row.areas_F for row in rows], (0,), np.int64),
        "centres_N2": _stack([row.centres_F2 for row in rows], (0, 2), np.int32),
        "centroids_N2": _stack([row.centroids_F2 for row in rows], (0, 2), np.float32),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **columns)
        out.flush()
        os.fsync(out.fileno())
    os.replace(fresh, file)


def load(file: Path) -> dict[Key, TargetTable]:
    """All tables of a file by (video uid, target uid); ValueError for a file that is none."""
    columns = _read(file)
    starts = columns["starts"]
    found = {}
    for row, (video, target) in enumerate(zip(columns["videos"], columns["targets"], strict=True)):
        part = slice(starts[row], starts[row + 1])
        table = TargetTable(
            str(video),
            str(target),
            columns["boxes_N4"][part],
            columns["areas_N"][part],
            columns["centres_N2"][part],
            columns["centroids_N2"][part],
        )
        found[table.key] = table
    return found


def fingerprint(file: Path) -> str:
    """What `save` was told of where its tables come from; ValueError for a file that is none."""
    return str(_read(file)["made_from"])


def _points(rle: Rle, box_4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and centroid in the frame's pixels, worked out inside the box: objects are small, frames are large."""
    x0, y0, x1, y1 = (int(v) for v in box_4)
    inner_HW = decode(rle)[y0:y1, x0:x1]
    return np.add(centre(inner_HW), (x0, y0)), np.add(centroid(inner_HW), (x0, y0)).round(2)


def _stack(parts: list[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(empty, dtype), *parts])


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as content:
            columns = {name: content[name] for name in content.files}
        version = int(columns["version"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file}: not a table of boxes and points ({error}): make it again with prepare"
        ) from error
    if version != VERSION:
        raise ValueError(
            f"{file}: version {version} of the tables, this code reads {VERSION}: make them again"
        )
    return columns
