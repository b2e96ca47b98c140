"""The published systems, one file each; `make` builds one from its name and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.types import System, Vision
from systems.base import unknown
from systems.revseg import ReVSeg
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.rater import DifficultyRater

SYSTEMS: dict[str, type[ReVSeg] | type[VideoSegR1] | type[VideoSegO3] | type[DifficultyRater]] = {
    "revseg": ReVSeg,
    "videoseg_r1": VideoSegR1,
    "videoseg_o3": VideoSegO3,
    "difficulty_rater": DifficultyRater,
}

# What systems are made for where no policy is at hand, as in tests.
QWEN2_5_VL = Vision(cell=28)


def make(name: str, options: Mapping[str, Any], vision: Vision = QWEN2_5_VL) -> System:
    """The system `name` with `options` (fields of its own options dataclass), for a policy of this `vision`.

    Raises ValueError for a name, key or value that does not fit.
    """
    if name not in SYSTEMS:
        raise ValueError(unknown(f"system.name = {name!r}", name, SYSTEMS))
    return SYSTEMS[name].make(options)
