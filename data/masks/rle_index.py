"""Run-length encoded masks in a JSON file of hundreds of MB: indexed once, read on demand.

The index is an sqlite file beside the JSON file (`<name>.index.sqlite`), or in the user's cache
folder if the data set is read-only. It belongs to one size and time of change of the JSON file;
another JSON file gets a new one. It is written under a temporary name and then renamed: processes
may start together.

The kinds of files:

    mask_dict    {annotation id: [COCO run-length encoding or null, one for each frame]}
    foreground   {video: {"masks_rle": [the same]}}                     of ReVOS, for the metric R
    instances    {"images": [..], "annotations": [{"id", "image_id", "segmentation"}]}
                 of COCO; polygons are drawn
    groundings   captions with phrases and masks, see `data.masks.grounded_captions`
    sam_masks    the same in another layout

The index keeps the error in a wrong annotation. Only a reader of this annotation gets it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from core.types import Rle
from data.derived import derived_places, writable_place, writing
from data.masks.lazy import LazyMasks
from data.masks.rle_entries import Entry, entries_of, read_entries

log = logging.getLogger(__name__)
ENDING = ".index.sqlite"
# Version of the index; an index with another one is made anew.
_VERSION = 2
# Decompressed annotations that a process keeps: about 50 MB at 100 frames.
_KEPT = 512

# Size and time of change of a JSON file.
Stamp = tuple[int, int]


@dataclass(frozen=True, eq=False)
class RleMasks(LazyMasks):
    """The masks of one key."""

    file: str
    key: str
    kind: str
    num_frames: int

    def __len__(self) -> int:
        return self.num_frames

    def all(self) -> tuple[Rle | None, ...]:
        stamp = _stamp(self.file)
        masks_F = _masks(self.file, self.key, self.kind, stamp)
        if len(masks_F) != self.num_frames:
            raise ValueError(
                f"{self.file}: key {self.key!r} has changed since the data set was read: start "
                "again"
            )
        return masks_F


def entries(file: Path, kind: str) -> dict[str, Entry]:
    """Return the facts about the masks of every key, without the masks.

    Raises:
        ValueError: The file is missing, cut short or not JSON.
    """
    return _entries(str(file), kind, _stamp(str(file)))


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except OSError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=_KEPT)
def _masks(file: str, key: str, kind: str, stamp: Stamp) -> tuple[Rle | None, ...]:
    with closing(_open(_index(file, kind, stamp))) as db:
        row = db.execute(
            "SELECT height, width, counts FROM entries JOIN counts USING (key) WHERE key = ?",
            (key,),
        ).fetchone()
    if row is None:
        raise ValueError(f"{file}: key {key!r} has gone since the data set was read: start again")

    height, width, packed = row
    masks: list[Rle | None] = []
    for counts in json.loads(zlib.decompress(packed)):
        if counts is None:
            masks.append(None)
        else:
            masks.append({"size": [height, width], "counts": counts})
    return tuple(masks)


@functools.lru_cache(maxsize=16)
def _entries(file: str, kind: str, stamp: Stamp) -> dict[str, Entry]:
    with closing(_open(_index(file, kind, stamp))) as db:
        rows = db.execute(
            "SELECT key, num_frames, num_masks, height, width, problem FROM entries"
        ).fetchall()
    return {key: Entry(*facts) for key, *facts in rows}


@functools.lru_cache(maxsize=64)
def _index(file: str, kind: str, stamp: Stamp) -> str:
    """Return the index of a JSON file. Make it if it is missing or of another file."""
    source = Path(file)
    for place in derived_places(source, ENDING):
        wanted = (_VERSION, kind, *stamp)
        if place.is_file() and _label(place) == wanted:
            return str(place)
    place = writable_place(source, ENDING)
    _build(source, kind, stamp, place)
    return str(place)


def _label(place: Path) -> tuple[Any, ...] | None:
    """Return the version, kind and stamp of an index; None for a damaged or foreign file."""
    try:
        with closing(_open(str(place))) as db:
            label: tuple[Any, ...] | None = db.execute(
                "SELECT version, kind, size, mtime FROM label"
            ).fetchone()
        return label
    except sqlite3.DatabaseError:
        return None


def _build(file: Path, kind: str, stamp: Stamp, place: Path) -> None:
    log.info("indexing %s (%.0f MB), once: %s", file, stamp[0] / 1e6, place)
    try:
        with writing(place) as part, closing(sqlite3.connect(part)) as db, db:
            # A half-written index never gets its name, so sqlite need not protect it.
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            _fill(db, file, kind, stamp)
    except ijson.JSONError as error:
        # The other lines point into the text.
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{file} is not JSON ({first_line}): download it again") from error


def _fill(db: sqlite3.Connection, file: Path, kind: str, stamp: Stamp) -> None:
    db.execute("CREATE TABLE label (version, kind, size, mtime)")
    db.execute(
        "CREATE TABLE entries (key TEXT PRIMARY KEY, num_frames, num_masks, height, width, problem)"
    )
    db.execute("CREATE TABLE counts (key TEXT PRIMARY KEY, counts BLOB)")
    for key, masks in read_entries(file, kind):
        entry, counts_F = entries_of(key, masks)
        row = (key, entry.num_frames, entry.num_masks, entry.height, entry.width, entry.problem)
        db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
        packed = zlib.compress(json.dumps(counts_F).encode(), 1)
        db.execute("INSERT OR REPLACE INTO counts VALUES (?, ?)", (key, packed))
    db.execute("INSERT INTO label VALUES (?, ?, ?, ?)", (_VERSION, kind, *stamp))


def _open(place: str) -> sqlite3.Connection:
    """Open an index for reading, without locks: its file never changes."""
    uri = Path(place).absolute().as_uri()
    return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)
