"""Files that are made once from a data set's own: beside their source, or in the user's cache folder where the data set
is read-only. They are written under a temporary name and renamed, so processes that start together do no harm."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def places(source: Path, ending: str) -> list[Path]:
    """Where the file made from `source` may lie, best first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayvos"
    name = hashlib.blake2b(str(source).encode(), digest_size=12).hexdigest()
    return [source.with_name(source.name + ending), cache / f"{name}{ending}"]


def writable(source: Path, ending: str) -> Path:
    """The first of the places that can be written. ValueError if there is none."""
    beside, cached = places(source, ending)
    if os.access(beside.parent, os.W_OK):
        return beside
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{source}: no place for what is made from it ({error}): make {beside.parent} or {cached.parent} writable"
        ) from error
    return cached


@contextmanager
def written(place: Path) -> Iterator[Path]:
    """A temporary file that gets its name at the end, if nothing goes wrong."""
    handle, part = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
    os.close(handle)
    try:
        yield Path(part)
        os.chmod(part, 0o644)  # mkstemp's files are the owner's alone
        os.replace(part, place)
    finally:
        Path(part).unlink(missing_ok=True)
