"""Data sets made by this repository itself.

The product knows the synthetic world by its name in `GENERATORS` only. Its module is imported when
a run asks for it (`data.synthetic=true`), so that the product works without it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from core.types import Sample

GENERATORS = {"synthetic": "tiny.world"}


class Generator(Protocol):
    """Functions of a generator's module."""

    def make(self, root: Path, length: str) -> None:
        """Make the missing splits of the data set.

        Args:
            length: `data.length`.

        Raises:
            ValueError: A split is there already, with videos of another length.
        """
        ...

    def make_ratings(self, root: Path, folder: Path) -> None:
        """Write the missing files <folder>/<split>.json of true difficulty ratings."""
        ...

    def true_ratings(self, sample: Sample, num_objects: int) -> dict[str, int]:
        """Return the true difficulty ratings of one sample, by aspect.

        Args:
            num_objects: Number of objects in the sample's video.
        """
        ...


def generator(name: str = "synthetic") -> Generator:
    """Import the module of a generator."""
    return cast(Generator, importlib.import_module(GENERATORS[name]))
