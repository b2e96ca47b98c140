"""Run-length encoded masks in a JSON file of hundreds of MB: indexed once, read when asked for.

The index is an sqlite file beside the JSON file (`<name>.index.sqlite`; in the user's cache folder where the data set
is read-only), good for one size and time of change of the JSON file and made anew for another. It is written under a
temporary name and renamed, so that processes that start together do no harm, and the JSON file is read as a stream:
memory holds one annotation. `RleMasks` are the masks of one key: they pickle as file and key.

Every file is read by its kind:

    mask_dict    {annotation id: [COCO run-length encoding or null, one for each frame]}
    foreground   {video: {"masks_rle": [the same]}}                     of ReVOS, for the metric R
    instances    {"images": [..], "annotations": [{"id", "image_id", "segmentation"}]}   COCO; polygons are drawn

A wrong annotation is kept with what is wrong about it, and is an error for who asks for it. Knows no expression.
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
from data.derived import places, writable, written
from data.masks.lazy import LazyMasks
from data.masks.rle_entries import Entry, entries_of, read_entries

log = logging.getLogger(__name__)
ENDING = ".index.sqlite"
_VERSION = 1  # of the sqlite file; another one is made anew
_KEPT = 512  # decompressed annotations in this process: about 50 MB at 100 frames


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
        masks_F = _masks(self.file, self.key, self.kind, _stamp(self.file))
        if len(masks_F) != self.num_frames:
            raise ValueError(
                f"{self.file}: key {self.key!r} has changed since the data set was read: start again"
            )
        return masks_F


def entries(file: Path, kind: str) -> dict[str, Entry]:
    """What every key of the file holds, without its masks. ValueError if the file is missing, cut short or no JSON."""
    return _entries(str(file), kind, _stamp(str(file)))


def index_file(file: Path, kind: str) -> Path:
    """The sqlite file for a JSON file, made now if it is not there or older."""
    return Path(_index(str(file), kind, _stamp(str(file))))


def _stamp(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=_KEPT)
def _masks(file: str, key: str, kind: str, stamp: tuple[int, int]) -> tuple[Rle | None, ...]:
    with closing(_open(_index(file, kind, stamp))) as db:
        row = db.execute(
            "SELECT height, width, counts FROM entries JOIN counts USING (key) WHERE key = ?",
            (key,),
        ).fetchone()
    if row is None:
        raise ValueError(f"{file}: key {key!r} has gone since the data set was read: start again")
    height, width, packed = row
    counts_F = json.loads(zlib.decompress(packed))
    return tuple(
        None if counts is None else {"size": [height, width], "counts": counts}
        for counts in counts_F
    )


@functools.lru_cache(maxsize=16)
def _entries(file: str, kind: str, stamp: tuple[int, int]) -> dict[str, Entry]:
    with closing(_open(_index(file, kind, stamp))) as db:
        rows = db.execute(
            "SELECT key, num_frames, num_masks, height, width, problem FROM entries"
        ).fetchall()
    return {key: Entry(*rest) for key, *rest in rows}


@functools.lru_cache(maxsize=64)
def _index(file: str, kind: str, stamp: tuple[int, int]) -> str:
    for place in places(Path(file), ENDING):
        if place.is_file() and _label(place) == (_VERSION, kind, *stamp):
            return str(place)
    place = writable(Path(file), ENDING)
    _build(Path(file), kind, stamp, place)
    return str(place)


def _label(place: Path) -> tuple[Any, ...] | None:
    """What the index says it was made of; None if it is no index of ours, or damaged."""
    try:
        with closing(_open(str(place))) as db:
            found: tuple[Any, ...] | None = db.execute(
                "SELECT version, kind, size, mtime FROM label"
            ).fetchone()
        return found
    except sqlite3.DatabaseError:
        return None


def _build(file: Path, kind: str, stamp: tuple[int, int], place: Path) -> None:
    log.info("indexing %s (%.0f MB), once: %s", file, stamp[0] / 1e6, place)
    try:
        with written(place) as part, closing(sqlite3.connect(part)) as db, db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")  # a half-written index never gets its name
            _fill(db, file, kind, stamp)
    except ijson.JSONError as error:
        first_line = str(error).partition("\n")[0]  # the others point into the text
        raise ValueError(f"{file} is not JSON ({first_line}): download it again") from error


def _fill(db: sqlite3.Connection, file: Path, kind: str, stamp: tuple[int, int]) -> None:
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
    """For reading, without locks: the file never changes under its name."""
    return sqlite3.connect(f"{Path(place).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
