"""Settings declared once: the dataclass field holds type, default, help, bounds and identity.

Example:

    @dataclass(frozen=True)
    class Options:
        prompt: Literal["full", "short"] = setting("full", help="wording of the questions")
        num_frames: int = setting(16, help="frames shown to the policy", least=1)

    make_settings(Options, {"num_frames": 0}, "system.options")
    # ValueError: system.options.num_frames=0: must be at least 1
"""

from __future__ import annotations

import copy
import difflib
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

# Key of the entry in a field's metadata.
_DECLARED = "rayvos"


@dataclass(frozen=True)
class Bounds:
    """Limits of a number; None where a side is open."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        # Every comparison with NaN is false, so NaN lies outside of any bound.
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        sides = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        return " and ".join(f"{word} {limit}" for word, limit in sides.items() if limit is not None)


@dataclass(frozen=True)
class Declared:
    """The metadata of a field: all that its type and default do not say."""

    help: str = ""
    bounds: Bounds = Bounds()
    identifies: frozenset[str] | None = None


@dataclass(frozen=True)
class Setting:
    """One setting of a tree of dataclasses.

    Attributes:
        key: dotted name, such as "learner.lr".
        value: its value in this tree.
        type: its declared type.
        help: one line for `--help`.
        bounds: limits of its value, or of each number if it holds several.
        identifies: kinds of result that change with this setting.
    """

    key: str
    value: Any
    type: Any
    help: str
    bounds: Bounds
    identifies: frozenset[str]


def setting(
    default: T,
    *,
    help: str = "",
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    identifies: Iterable[str] | None = None,
) -> T:
    """Declare a field of a settings dataclass.

    Args:
        default: the default; a list or dict is copied for every instance.
        help: one line for `--help`.
        least, above, most, below: bounds of a number.
        identifies: kinds of result that change with this setting; None takes those of its section.
    """
    kinds = None if identifies is None else frozenset(identifies)
    metadata = {_DECLARED: Declared(help, Bounds(least, above, most, below), kinds)}
    if isinstance(default, (list, dict)):
        return cast(T, field(default_factory=lambda: copy.deepcopy(default), metadata=metadata))
    return field(default=default, metadata=metadata)


def section(schema: type[T], *, identifies: Iterable[str] | None = None) -> T:
    """Declare a field that is a settings dataclass of its own.

    `identifies` applies to each of its settings that declares none of its own.
    """
    kinds = None if identifies is None else frozenset(identifies)
    metadata = {_DECLARED: Declared(identifies=kinds)}
    return cast(T, field(default_factory=schema, metadata=metadata))


def settings_of(tree: Any, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a dataclass instance, sections flattened to dotted keys."""
    return _walk(tree, prefix, frozenset())


def identity(tree: Any, kind: str) -> dict[str, Any]:
    """Return dotted key -> value of the settings that identify a `kind` of result.

    Two results of equal identity may be continued, compared and mixed. A mapping, such as
    `system.options`, contributes one entry for each of its keys.
    """
    values: dict[str, Any] = {}
    for each in settings_of(tree):
        if kind in each.identifies:
            values.update(_flat(each.key, each.value))
    return values


def flat_settings(tree: Any) -> dict[str, Any]:
    """Return dotted key -> value of all settings; a mapping as in `identity`."""
    values: dict[str, Any] = {}
    for each in settings_of(tree):
        values.update(_flat(each.key, each.value))
    return values


def make_settings(schema: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return an instance of the dataclass `schema`; missing keys keep their default.

    `where` is the dotted name of the whole, such as "system.options".

    Raises:
        ValueError: an unknown key, a value of the wrong type, or one out of bounds.
    """
    annotations = get_type_hints(schema)
    names = [each.name for each in fields(cast(Any, schema))]
    for key, value in values.items():
        if key not in names:
            raise ValueError(unknown_name(f"{where}.{key}", key, names))
        if not fits(value, annotations[key]):
            raise ValueError(mismatch(f"{where}.{key}", value, annotations[key]))
    made = schema(**values)
    check_bounds(made, where)
    return made


def check_bounds(tree: Any, where: str = "") -> None:
    """Check every number of a dataclass instance.

    Raises:
        ValueError: one line for each setting out of bounds, infinite or nan.
    """
    problems = list(bound_problems(tree, where))
    if problems:
        raise ValueError("\n".join(problems))


def bound_problems(tree: Any, where: str = "") -> Iterator[str]:
    """Yield a message for each setting out of bounds, infinite or nan."""
    prefix = f"{where}." if where else ""
    for each in settings_of(tree, prefix):
        if not _is_finite(each.value):
            yield f"{each.key}={each.value}: must be finite"
            continue
        if each.bounds == Bounds():
            continue
        values = each.value if isinstance(each.value, (list, tuple)) else [each.value]
        # Words such as "auto" have no bounds.
        numbers = [value for value in values if not isinstance(value, str)]
        if any(number not in each.bounds for number in numbers):
            yield f"{each.key}={each.value}: must be {each.bounds}"


def fits(value: Any, annotation: Any) -> bool:
    """Return whether `value` is of the declared type. An int is a float; a bool is no number."""
    origin = get_origin(annotation)
    if annotation is Any:
        return True
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(annotation))
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(annotation))
    if origin is tuple:
        return _fits_tuple(value, get_args(annotation))
    if origin is not None and issubclass(origin, Mapping):
        key_type, item_type = get_args(annotation)
        if not isinstance(value, Mapping):
            return False
        return all(fits(key, key_type) and fits(value[key], item_type) for key in value)
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        return all(fits(item, get_args(annotation)[0]) for item in value)
    if annotation in (int, float) and isinstance(value, bool):
        return False
    if annotation is float:
        return isinstance(value, (int, float))
    return isinstance(value, annotation)


def spell(annotation: Any) -> str:
    """Return a declared type in words, for messages and `--help`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + " | ".join(str(word) for word in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(spell(option) for option in get_args(annotation))
    if origin is tuple:
        return "a list of " + " and ".join(spell(item) for item in get_args(annotation))
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping to " + spell(get_args(annotation)[1])
    if origin is not None and issubclass(origin, Sequence):
        return "a list, each item " + spell(get_args(annotation)[0])
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(annotation, "any value")


def mismatch(key: str, value: Any, annotation: Any) -> str:
    """Return the message for a value of the wrong type, with the nearest word if one is near."""
    message = f"{key}={value!r} ({type(value).__name__}): expected {spell(annotation)}"
    items = value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        near = nearest(item, words_of(annotation))
        if near and near != item:
            return f"{message} (did you mean {near}?)"
    return message


def unknown_name(what: str, name: object, names: Iterable[str]) -> str:
    """Return the message for a name that does not exist, with the nearest one if one is near."""
    names = list(names)
    near = nearest(name, names)
    suggestion = f"; did you mean {near!r}?" if near else "."
    return f"{what} is unknown{suggestion} Choose from: {', '.join(names)}"


def nearest(name: object, names: Iterable[str]) -> str:
    """Return the name most like `name`, or "" if none is near."""
    matches = difflib.get_close_matches(str(name), list(names), n=1)
    return matches[0] if matches else ""


def words_of(annotation: Any) -> list[str]:
    """Return all words that a type allows: those of its Literals."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    words = []
    for part in get_args(annotation):
        words += words_of(part)
    return words


def _walk(tree: Any, prefix: str, inherited: frozenset[str]) -> Iterator[Setting]:
    annotations = get_type_hints(type(tree))
    for each in fields(tree):
        value = getattr(tree, each.name)
        declared = each.metadata.get(_DECLARED, Declared())
        kinds = inherited if declared.identifies is None else declared.identifies
        key = prefix + each.name
        if is_dataclass(value):
            yield from _walk(value, f"{key}.", kinds)
        else:
            yield Setting(key, value, annotations[each.name], declared.help, declared.bounds, kinds)


def _flat(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {key: [_plain(item) for item in value]}
    if not isinstance(value, dict):
        return {key: value}
    values: dict[str, Any] = {}
    for name, item in value.items():
        values.update(_flat(f"{key}.{name}", item))
    return values


def _plain(item: Any) -> Any:
    """Return an entry of a list; settings of its own are compared as a file of them reads."""
    if is_dataclass(item) and not isinstance(item, type):
        return asdict(item)
    return item


def _is_finite(value: Any) -> bool:
    """Return whether no number in `value` is infinite or nan; lists and mappings are searched."""
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _fits_tuple(value: Any, annotations: tuple[Any, ...]) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != len(annotations):
        return False
    return all(fits(item, annotation) for item, annotation in zip(value, annotations, strict=True))
