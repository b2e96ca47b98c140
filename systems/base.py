"""Options of a system: from the mapping in a configuration to a frozen dataclass.

The fields of the dataclass are the whole schema; `core.settings` checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from core.settings import make_settings
from core.settings import unknown_name as unknown

__all__ = ["WHERE", "build", "unknown"]

T = TypeVar("T")

WHERE = "system.options"


def build(schema: type[T], values: Mapping[str, Any]) -> T:
    """Return the options dataclass `schema` with `values`; missing keys keep their default.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or one out of bounds.
    """
    return make_settings(schema, values, WHERE)
