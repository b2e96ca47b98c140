"""The published systems, a folder each; `make` builds one from its name and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.settings import unknown_name
from core.types import System, Vision
from systems.base import DEFAULT_VISION, BaseSystem
from systems.revseg import ReVSeg
from systems.veason_r1 import VeasonR1
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.rater import DifficultyRater

SYSTEMS: dict[str, type[BaseSystem[Any]]] = {
    "revseg": ReVSeg,
    "videoseg_r1": VideoSegR1,
    "videoseg_o3": VideoSegO3,
    "veason_r1": VeasonR1,
    "difficulty_rater": DifficultyRater,
}


def make(name: str, options: Mapping[str, Any], vision: Vision = DEFAULT_VISION) -> System:
    """Return the system `name` for a policy of this `vision`.

    Args:
        options: `system.options` of a configuration: fields of the system's options dataclass.

    Raises:
        ValueError: a name, key or value that does not fit.
    """
    if name not in SYSTEMS:
        raise ValueError(unknown_name(f"system.name={name!r}", name, SYSTEMS))
    return SYSTEMS[name].make(options, vision)
