"""Boxes, areas and points of every object in every frame, kept in one file for a split.

    table = target_table(video_uid, target)
    save_tables(file, [table])
    load_tables(file)[video_uid, target.uid]

The file is a numpy .npz of numbers and texts, read with `allow_pickle=False`. It holds the tables
of all objects one after the other, and the first row of each.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.files import replacing
from core.masks import area, box, decode
from core.points import squared_depth
from core.types import Place, Target

# (video uid, target uid)
TableKey = tuple[str, str]
# Version of the file format.
VERSION = 1
# Both coordinates of a point in a frame that does not show the object.
ABSENT = -1


@dataclass(frozen=True)
class TargetTable:
    """One object, frame by frame. Without it, area and box are 0 and points are (-1, -1).

    Attributes:
        boxes_F4: Tight boxes, int32 (x0, y0, x1, y1), x1 and y1 exclusive.
        areas_F: Visible pixels, int64.
        centres_F2: Pixels of the mask, int32 (x, y): the centre of its largest inner circle.
        centroids_F2: Mean pixels of the mask, float32 (x, y) to a hundredth. They may lie off the
            mask.
    """

    video: str
    target: str
    boxes_F4: np.ndarray
    areas_F: np.ndarray
    centres_F2: np.ndarray
    centroids_F2: np.ndarray

    @property
    def key(self) -> TableKey:
        return self.video, self.target


def target_table(video: str, target: Target) -> TargetTable:
    """Compute the table of one object. Masks are decoded one at a time."""
    num_frames = len(target.masks_F)
    table = TargetTable(
        video,
        target.uid,
        boxes_F4=np.zeros((num_frames, 4), np.int32),
        areas_F=np.zeros(num_frames, np.int64),
        centres_F2=np.full((num_frames, 2), ABSENT, np.int32),
        centroids_F2=np.full((num_frames, 2), ABSENT, np.float32),
    )
    if target.place is not None:
        _fill_in_place(table, target.place)
    for frame, rle in enumerate(target.masks_F):
        if rle is None or not area(rle):
            continue
        table.areas_F[frame] = area(rle)
        table.boxes_F4[frame] = box(rle)

        # Objects are small and frames are large: the points are found inside the box.
        x0, y0, x1, y1 = table.boxes_F4[frame].tolist()
        inner_HW = decode(rle)[y0:y1, x0:x1]
        table.centres_F2[frame] = np.add(centre(inner_HW), (x0, y0))
        table.centroids_F2[frame] = np.add(centroid(inner_HW), (x0, y0)).round(2)
    return table


def _fill_in_place(table: TargetTable, place: Place) -> None:
    """Fill in an object without a mask: its box, the box's area and centre, and its point."""
    x0, y0, x1, y1 = place.box
    table.boxes_F4[place.frame] = np.round(place.box)
    table.areas_F[place.frame] = round((x1 - x0) * (y1 - y0))
    table.centres_F2[place.frame] = np.round(place.point)
    table.centroids_F2[place.frame] = ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)


def centre(mask_HW: np.ndarray) -> tuple[int, int]:
    """Return the pixel (x, y) of a mask farthest from everything off the mask.

    It maximises the exact Euclidean distance transform, as VisionReasoner's `prepare_dataset` does.
    Everything outside of the array counts as off the mask. Of several maxima, as along the axis of
    a bar, it is the one nearest to their mean, in the middle of the mask.

    Args:
        mask_HW: A bool mask, not empty.
    """
    assert mask_HW.any(), "an empty mask has no centre"
    depth_HW = squared_depth(mask_HW)
    best_N2 = np.argwhere(depth_HW == depth_HW.max())
    to_mean_N = ((best_N2 - best_N2.mean(0)) ** 2).sum(1)
    y, x = best_N2[to_mean_N.argmin()]
    return int(x), int(y)


def centroid(mask_HW: np.ndarray) -> tuple[float, float]:
    """Return the mean (x, y) of a mask's pixels. The mask is bool and not empty."""
    y, x = np.argwhere(mask_HW).mean(0)
    return float(x), float(y)


def table_to_json(table: TargetTable) -> dict[str, Any]:
    """Return a table as numbers and texts. `table_from_json` gives the same table back."""
    centroids = []
    for x, y in table.centroids_F2.tolist():
        centroids.append([round(x, 2), round(y, 2)])
    return {
        "video": table.video,
        "target": table.target,
        "boxes": table.boxes_F4.tolist(),
        "areas": table.areas_F.tolist(),
        "centres": table.centres_F2.tolist(),
        "centroids": centroids,
    }


def table_from_json(row: Mapping[str, Any]) -> TargetTable:
    num_frames = len(row["areas"])
    return TargetTable(
        row["video"],
        row["target"],
        boxes_F4=np.array(row["boxes"], np.int32).reshape(num_frames, 4),
        areas_F=np.array(row["areas"], np.int64),
        centres_F2=np.array(row["centres"], np.int32).reshape(num_frames, 2),
        centroids_F2=np.array(row["centroids"], np.float32).reshape(num_frames, 2),
    )


def save_tables(file: Path, tables: Iterable[TargetTable], made_from: str = "") -> None:
    """Write one file, whole or not at all.

    Args:
        made_from: A fingerprint of the tables' source. The function `made_from` reads it back.
    """
    columns = _columns(tables)
    columns["version"] = np.array(VERSION)
    columns["made_from"] = np.array(made_from)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as fresh, fresh.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **columns)
        out.flush()
        os.fsync(out.fileno())


def _columns(tables: Iterable[TargetTable]) -> dict[str, np.ndarray]:
    """Return the tables one after the other, and the first row of each."""
    # An empty table in front gives the shapes and types of a file without any other.
    empty = target_table("", Target("", ()))
    rows = [empty, *tables]
    lengths = [len(row.areas_F) for row in rows]
    return {
        "videos": np.array([row.video for row in rows[1:]], dtype=str),
        "targets": np.array([row.target for row in rows[1:]], dtype=str),
        "starts": np.cumsum(lengths, dtype=np.int64),
        "boxes_N4": np.concatenate([row.boxes_F4 for row in rows]),
        "areas_N": np.concatenate([row.areas_F for row in rows]),
        "centres_N2": np.concatenate([row.centres_F2 for row in rows]),
        "centroids_N2": np.concatenate([row.centroids_F2 for row in rows]),
    }


def load_tables(file: Path) -> dict[TableKey, TargetTable]:
    """Return all tables of a file, by video uid and target uid.

    Raises:
        ValueError: The file holds something else.
    """
    columns = _read_columns(file)
    starts = columns["starts"]
    tables = {}
    for row, video in enumerate(columns["videos"]):
        part = slice(starts[row], starts[row + 1])
        table = TargetTable(
            str(video),
            str(columns["targets"][row]),
            boxes_F4=columns["boxes_N4"][part],
            areas_F=columns["areas_N"][part],
            centres_F2=columns["centres_N2"][part],
            centroids_F2=columns["centroids_N2"][part],
        )
        tables[table.key] = table
    return tables


def made_from(file: Path) -> str:
    """Return the fingerprint given to `save_tables`.

    Raises:
        ValueError: The file holds something else.
    """
    return str(_read_columns(file)["made_from"])


def _read_columns(file: Path) -> dict[str, np.ndarray]:
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
