"""Small data sets on disk, each in its published layout with its published oddities.

`FIXTURES[format](root)` writes one and returns its expected samples: the sentence of every
expression, its kind, and the pixels of its answer, (F, H, W) bool, or None without public ground
truth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.data.fixture_files import (
    HEIGHT,
    NAMES,
    WIDTH,
    Expected,
    Written,
    blob,
    dump,
    images,
    mp4,
    rles,
)
from tests.data.fixture_others import o3_rl, own, reasonseg, refcoco, vts_cot
from tests.data.fixture_places_tasks import o3_sft, visionreasoner
from tests.data.fixture_videos import (
    groundmore,
    longrvos,
    lvvis,
    mevis,
    reasonvos,
    ref_davis17,
    ref_sav,
    ref_youtube_vos,
    revos,
)

__all__ = [
    "FIXTURES",
    "HEIGHT",
    "NAMES",
    "WIDTH",
    "Expected",
    "Written",
    "blob",
    "dump",
    "images",
    "mp4",
    "ref_youtube_vos",
    "revos",
    "rles",
]

FIXTURES: dict[str, Callable[[Path], Written]] = {
    "mevis": mevis,
    "revos": revos,
    "lvvis": lvvis,
    "reasonvos": reasonvos,
    "longrvos": longrvos,
    "groundmore": groundmore,
    "ref_sav": ref_sav,
    "ref_youtube_vos": ref_youtube_vos,
    "ref_davis17": ref_davis17,
    "reasonseg": reasonseg,
    "refcoco": refcoco,
    "visionreasoner": visionreasoner,
    "vts_cot": vts_cot,
    "o3_rl": o3_rl,
    "o3_sft": o3_sft,
    "own": own,
}
