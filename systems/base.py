"""Options of a system: from the mapping in a configuration to a frozen dataclass, with errors a person can act on.

Knows no system; the fields, types and defaults of the dataclass are the whole schema.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

WHERE = "system.options"


def build(schema: type[T], values: Mapping[str, Any]) -> T:
    """An instance of the dataclass `schema` from `values`; missing keys keep their default.

    Raises ValueError for an unknown key (naming the nearest one) and for a value of the wrong type.
    """
    hints = get_type_hints(schema)
    names = [f.name for f in fields(schema)]  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in names:
            raise ValueError(unknown(f"{WHERE}.{key}", key, names))
        if not _fits(value, hints[key]):
            raise ValueError(
                f"{WHERE}.{key} = {value!r} ({type(value).__name__}): expected {_spell(hints[key])}"
            )
    return schema(**values)


def unknown(what: str, key: object, names: Iterable[str]) -> str:
    """The message for a name that does not exist: the nearest one if any is near, and all of them."""
    names = list(names)
    near = difflib.get_close_matches(str(key), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} is unknown; {hint}There are: {', '.join(names)}"


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if origin is not None and issubclass(origin, Mapping):
        key, item = get_args(hint)
        return isinstance(value, Mapping) and all(
            _fits(k, key) and _fits(v, item) for k, v in value.items()
        )
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def _spell(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(choice) for choice in get_args(hint))
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping to " + _spell(get_args(hint)[1])
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]
