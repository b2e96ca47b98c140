"""Files made once from a file of a data set.

They lie beside their source, or in the user's cache folder if the data set is read-only. Each is
written under a temporary name and then renamed, so that processes may start together.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


class KnownFacts:
    """Facts about the many files of a data set, each found once.

    They are kept in one JSON file, with each file's size and time of change. A changed file is
    looked at again.
    """

    def __init__(self, source: Path, ending: str, find: Callable[[str], list[int]]) -> None:
        """Read what is known.

        Args:
            source: The list of the data set, beside which the facts are kept.
            ending: Of the name of their file.
            find: Returns the facts of a file, or raises a ValueError, which is not kept.
        """
        self._find = find
        self._source = source
        self._ending = ending
        self._known: dict[str, Any] = {}
        self._new = 0
        for place in derived_places(source, ending):
            if place.is_file():
                self._known = _read_facts(place)
                break

    def of(self, file: str) -> list[int]:
        """Return the facts of a file, which must exist."""
        status = os.stat(file)
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(file)
        if isinstance(known, list) and known[:2] == stamp:
            return known[2:]
        found = self._find(file)
        self._known[file] = stamp + found
        self._new += 1
        return found

    def save(self) -> None:
        """Write the file, if a fact is new."""
        if not self._new:
            return
        with writing(writable_place(self._source, self._ending)) as part:
            part.write_text(json.dumps(self._known))
        self._new = 0


def _read_facts(place: Path) -> dict[str, Any]:
    """Return the content of a file of facts; nothing from a damaged one."""
    try:
        known = json.loads(place.read_bytes())
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
