"""Files made once from a file of a data set.

They lie beside their source, or in the user's cache folder if the data set is read-only. Each is
written under a temporary name and then renamed, so that processes may start together.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def derived_places(source: Path, ending: str) -> list[Path]:
    """Return the places for a file made from `source`, best first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayvos"
    name = hashlib.blake2b(str(source).encode(), digest_size=12).hexdigest()
    return [source.with_name(source.name + ending), cache / f"{name}{ending}"]


def writable_place(source: Path, ending: str) -> Path:
    """Return the first writable place.

    Raises:
        ValueError: None can be written.
    """
    beside, cached = derived_places(source, ending)
    if os.access(beside.parent, os.W_OK):
        return beside
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{source}: no place for what is made from it ({error}): make {beside.parent} or "
            f"{cached.parent} writable"
        ) from error
    return cached


@contextmanager
def writing(place: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes `place` if the block ends without an error."""
    handle, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        # mkstemp makes files that only their owner can read.
        os.chmod(part, 0o644)
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
