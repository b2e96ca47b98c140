"""Masks on every few frames, told from an object that comes and goes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def looks_sparse(with_mask_F: Sequence[bool]) -> bool:
    """Return whether the frames with a mask are few, and each stands alone."""
    count = sum(with_mask_F)
    changes = sum(before != after for before, after in pairwise(with_mask_F))
    # The first and the last frame have one neighbour.
    return 0 < count < len(with_mask_F) / 2 and changes >= 2 * count - 2


def sparse_text(uid: str, with_mask_F: Sequence[bool]) -> str:
    """Return what is to be said of such an object."""
    return (
        f"object {uid!r} has masks on {sum(with_mask_F)} of {len(with_mask_F)} frames, none "
        "beside another: the others count as frames without it; if they are only not labelled, say "
        '"without_mask": "not labelled" in the data set\'s JSON'
    )
