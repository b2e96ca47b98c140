"""Reading a policy's text: tagged blocks, JSON with its common slips, numbers.

Every function takes any text and never raises: None or an empty list stands for an unreadable text,
because that is an ordinary outcome of an episode.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

# Longer values are not answers; the bound keeps a hostile completion from costing seconds.
MAX_CHARS = 20_000
# Python's own parsers recurse: beyond some depth they exhaust the stack.
MAX_DEPTH = 20
# Opening brackets tried by `search_records`.
MAX_STARTS = 32

# Digits before and after the point are bounded, so that `float` is exact for whole numbers.
_NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{1,9})?", re.ASCII)
_CLOSING = {"[": "]", "{": "}"}
_DEPTH_STEPS = dict(zip(b"[{(]})", (1, 1, 1, -1, -1, -1), strict=True))
_NO_BRACKETS = bytes(set(range(256)) - set(_DEPTH_STEPS))


def block(text: str, name: str) -> str | None:
    """Return the content of the first <name>...</name>, stripped; None without one."""
    opening = f"<{name}>"
    if opening not in text:
        return None
    start = text.find(opening) + len(opening)
    stop = text.find(f"</{name}>", start)
    if stop < 0:
        return None
    return text[start:stop].strip()


def is_tagged(text: str, names: Sequence[str]) -> bool:
    """Return whether `text` is exactly the blocks `names`, in this order, each tag once.

    Only white space may stand between the blocks.
    """
    for name in names:
        if text.count(f"<{name}>") != 1 or text.count(f"</{name}>") != 1:
            return False
    blocks = r"\s*".join(rf"<{name}>.*?</{name}>" for name in names)
    return re.fullmatch(rf"\s*{blocks}\s*", text, re.DOTALL) is not None


def value(text: str) -> Any | None:
    """Return the JSON value or Python literal in `text`, fenced or not, or None."""
    text = _without_fence(text.strip())
    if len(text) > MAX_CHARS or _depth(text) > MAX_DEPTH:
        return None
    for read in (json.loads, _literal):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def json_value(text: str) -> Any | None:
    """Return the JSON value in `text`, without fence or Python quotes; else None (and for null).

    Python's own reader is used, so NaN and Infinity are numbers too.
    """
    if len(text) > MAX_CHARS or _depth(text) > MAX_DEPTH:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def literal_value(text: str) -> Any | None:
    """Return the Python literal in `text`, without fence; else None (and for None itself)."""
    if len(text) > MAX_CHARS or _depth(text) > MAX_DEPTH:
        return None
    try:
        return _literal(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def records(text: str) -> list[dict[Any, Any]]:
    """Return the dictionaries in a text: a list of them, or a single one; else []."""
    found = value(text)
    entries: list[Any] = found if isinstance(found, list) else [found]
    if all(isinstance(entry, dict) for entry in entries):
        return entries
    return []


def find_records(text: str) -> list[dict[Any, Any]]:
    """Return the `records` of a text, or of its first bracketed piece if words surround that.

    A broken list is not searched for whole entries, and tags are no words.
    """
    if value(text) is not None:
        return records(text)
    start = next((i for i, letter in enumerate(text) if letter in _CLOSING), None)
    if start is None or "<" in text[:start]:
        return []
    stop = _end_of_bracket(text, start)
    return [] if stop is None else records(text[start:stop])


def search_records(text: str) -> list[dict[Any, Any]]:
    """Return the `records` of the first bracketed piece of `text` with any; prose is skipped."""
    position = 0
    for _ in range(MAX_STARTS):
        start = next((i for i in range(position, len(text)) if text[i] in _CLOSING), None)
        if start is None:
            break
        stop = _end_of_bracket(text, start)
        if stop is not None:
            entries = records(text[start:stop])
            if entries:
                return entries
        position = start + 1
    return []


def integer(number: Any) -> int | None:
    """Return an int, or a float without a fraction (7.0), as an int; None for anything else."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    if isinstance(number, float) and not number.is_integer():
        return None
    return int(number)


def numbers(entries: Any, count: int) -> tuple[float, ...] | None:
    """Return `entries` as `count` finite floats, or None."""
    if not isinstance(entries, list | tuple) or len(entries) != count:
        return None
    # A loop, because generators take twice the time, and a group of answers comes here often.
    for x in entries:
        if isinstance(x, bool) or not isinstance(x, (int, float)):
            return None
    try:
        floats = tuple(map(float, entries))
    except OverflowError:
        # An int of hundreds of digits.
        return None
    return floats if all(map(math.isfinite, floats)) else None


def loose_integer(written: Any) -> int | None:
    """Return `integer` of a number or of a text with one, such as "5"."""
    return integer(_number_in(written))


def loose_numbers(entries: Any, count: int) -> tuple[float, ...] | None:
    """Return `numbers` of a list whose entries may be texts, such as "104"."""
    if not isinstance(entries, list | tuple):
        return None
    return numbers([_number_in(entry) for entry in entries], count)


def plain(text: str) -> str:
    """Make `text` fit to be shown to a policy: one line of valid Unicode without special tokens.

    The policy writes descriptions; a "<|image_pad|>" spelt out in one would become an image without
    pixels.
    """
    readable = text.encode("utf-8", "replace").decode()
    # Removing one mark may join the pieces of another.
    while "<|" in readable or "|>" in readable:
        readable = readable.replace("<|", "").replace("|>", "")
    return " ".join(readable.split())


def _number_in(written: Any) -> Any:
    """The number in a text of nothing else; any other value as it is."""
    if isinstance(written, str) and _NUMBER.fullmatch(written.strip()):
        return float(written)
    return written


def _without_fence(text: str) -> str:
    if not (len(text) >= 6 and text.startswith("```") and text.endswith("```")):
        return text
    # "```json" names its language.
    return re.sub(r"^[A-Za-z]*", "", text[3:-3]).strip()


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        # An invalid escape such as "\d" is the policy's slip, not the program's.
        warnings.simplefilter("ignore")
        return ast.literal_eval(text)


def _depth(text: str) -> int:
    """Deepest nesting of brackets; brackets in strings count too, so the bound is only stricter."""
    # Deleting all other bytes first is twelve times as fast as a loop over letters.
    brackets = text.encode("ascii", "replace").translate(None, _NO_BRACKETS)
    return max(accumulate(map(_DEPTH_STEPS.__getitem__, brackets), initial=0))


def _end_of_bracket(text: str, start: int) -> int | None:
    """Index after the closing bracket for the one at `start`, or None; strings are skipped."""
    expected = [_CLOSING[text[start]]]
    quote = ""
    i = start + 1
    while i < min(len(text), start + MAX_CHARS):
        letter = text[i]
        if quote:
            if letter == "\\":
                # Skip the escaped letter.
                i += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"'":
            quote = letter
        elif letter in _CLOSING:
            expected.append(_CLOSING[letter])
        elif letter == expected[-1]:
            expected.pop()
            if not expected:
                return i + 1
        i += 1
    return None
