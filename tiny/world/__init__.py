"""The door of the synthetic world: the product makes its data set and its ratings here.

`data/generators.py` names this module; nothing else of the product imports `tiny`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.types import Sample

# The modules behind the door are imported inside the functions: the schools import
# `tiny.world.scene` alone, and need neither video encoders nor the readers of data sets.


def make(root: Path, length: str = "short") -> None:
    """Make the missing splits of the synthetic data set below `root`.

    Args:
        length: `data.length`, "short" or "long".

    Raises:
        ValueError: a split is there already, with videos of another length.
    """
    from tiny.world.write import write_dataset

    write_dataset(root, length=length)


def make_ratings(root: Path, folder: Path) -> None:
    """Make the missing <folder>/<split>.json: difficulty ratings of the data set below `root`."""
    from tiny.world.ratings import write_ratings

    write_ratings(root, folder)


def true_ratings(sample: Sample, num_objects: int) -> dict[str, int]:
    """Return the difficulty ratings of one synthetic sample, by aspect.

    Args:
        num_objects: number of shapes in its video.

    Raises:
        ValueError: the sample is not from the synthetic data set.
    """
    from tiny.world import difficulty

    return difficulty.true_ratings(sample, num_objects)
