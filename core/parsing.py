"""Reading what a policy wrote: tagged blocks, JSON with its common slips, numbers.

Every function takes any text whatever and never raises: what cannot be read comes back as None or as an empty list,
because an unreadable answer is an ordinary outcome of an episode. This file knows no system, no key and no prompt.
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

MAX_CHARS = 20_000  # longer values are not answers; keeps a hostile completion from costing seconds
MAX_DEPTH = 20  # Python's own parsers recurse: beyond some depth they exhaust the stack
MAX_STARTS = 32  # opening brackets tried by `search_records`

_CLOSING = {"[": "]", "{": "}"}
_STEPS = dict(zip(b"[{(]})", (1, 1, 1, -1, -1, -1), strict=True))
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


def block(text: str, name: str) -> str | None:
    """Content of the first <name>...</name> of `text`, stripped; None without one."""
    start = text.find(f"<{name}>") + len(f"<{name}>")
    stop = text.find(f"</{name}>", start)
    return text[start:stop].strip() if f"<{name}>" in text and stop >= 0 else None


def is_tagged(text: str, names: Sequence[str]) -> bool:
    """Whether `text` is exactly the blocks `names`, in this order, each tag once, with only white space between."""
    once = all(text.count(f"<{name}>") == 1 == text.count(f"</{name}>") for name in names)
    whole = r"\s*".join(rf"<{name}>.*?</{name}>" for name in names)
    return once and re.fullmatch(rf"\s*{whole}\s*", text, re.DOTALL) is not None


def value(text: str) -> Any | None:
    """The JSON value or Python literal that `text` is (a Markdown fence around it is taken off), or None."""
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
    """The JSON value that `text` is, and nothing else: no fence, no Python quotes; None otherwise (and for null).

    Python's own reader, so NaN and Infinity are numbers too.
    """
    if len(text) > MAX_CHARS or _depth(text) > MAX_DEPTH:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def records(text: str) -> list[dict[Any, Any]]:
    """The dictionaries that `text` as a whole stands for: a list of them, or one by itself; else an empty list."""
    found = value(text)
    rows: list[Any] = found if isinstance(found, list) else [found]
    return rows if all(isinstance(row, dict) for row in rows) else []


def search_records(text: str) -> list[dict[Any, Any]]:
    """`records` of the first bracketed piece of `text` that has any; prose around it is skipped."""
    position = 0
    for _ in range(MAX_STARTS):
        start = next((i for i in range(position, len(text)) if text[i] in _CLOSING), None)
        if start is None:
            break
        stop = _end_of_bracket(text, start)
        if stop is not None and (rows := records(text[start:stop])):
            return rows
        position = start + 1
    return []


def integer(number: Any) -> int | None:
    """`number` as an int when it is one, or a float without a fraction (7.0); None for anything else."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return int(number) if isinstance(number, int) or number.is_integer() else None


def numbers(row: Any, count: int) -> tuple[float, ...] | None:
    """`row` as `count` finite floats, or None."""
    if not isinstance(row, list | tuple) or len(row) != count:
        return None
    for x in row:  # written out: an answer of ten objects comes here thirty times, and generators double the time
        if isinstance(x, bool) or not isinstance(x, (int, float)):
            return None
    try:
        floats = tuple(map(float, row))
    except OverflowError:  # an int of hundreds of digits
        return None
    return floats if all(map(math.isfinite, floats)) else None


def plain(text: str) -> str:
    """`text` fit to be shown to a policy again: one line, valid Unicode, and no piece that looks like a special token.

    A description is written by the policy; a "<|image_pad|>" spelt out in it would become an image without pixels.
    """
    readable = text.encode("utf-8", "replace").decode()
    while "<|" in readable or "|>" in readable:  # taking one out may join another
        readable = readable.replace("<|", "").replace("|>", "")
    return " ".join(readable.split())


def _without_fence(text: str) -> str:
    if not (len(text) >= 6 and text.startswith("```") and text.endswith("```")):
        return text
    return re.sub(r"^[A-Za-z]*", "", text[3:-3]).strip()  # "```json" names its language


def _literal(text: str) -> Any:
    with (
        warnings.catch_warnings()
    ):  # "\d" in a string is the policy's slip, not one of this program
        warnings.simplefilter("ignore")
        return ast.literal_eval(text)


def _depth(text: str) -> int:
    """How deep brackets nest; those inside strings count too, which only makes the bound stricter."""
    brackets = text.encode("ascii", "replace").translate(
        None, _NO_BRACKETS
    )  # twelve times as fast as by letters
    return max(accumulate(map(_STEPS.__getitem__, brackets), initial=0))


def _end_of_bracket(text: str, start: int) -> int | None:
    """Index after the bracket that closes the one at `start`, strings skipped; None if it stays open."""
    waiting = [_CLOSING[text[start]]]
    quote = ""
    i = start + 1
    while i < min(len(text), start + MAX_CHARS):
        letter = text[i]
        if quote:
            i += letter == "\\"  # the escaped letter is skipped
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _CLOSING:
            waiting.append(_CLOSING[letter])
        elif letter == waiting[-1]:
            waiting.pop()
            if not waiting:
                return i + 1
        i += 1
    return None
