"""The published systems, one file each; `make` builds one from its name and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.types import System
from systems.options import unknown
from systems.revseg import ReVSeg

SYSTEMS = {"revseg": ReVSeg}


def make(name: str, options: Mapping[str, Any]) -> System:
    """The system `name` with `options` (fields of its own options dataclass).

    Raises ValueError for a name, key or value that does not fit.
    """
    if name not in SYSTEMS:
        raise ValueError(unknown(f"system.name = {name!r}", name, SYSTEMS))
    return SYSTEMS[name].make(options)
