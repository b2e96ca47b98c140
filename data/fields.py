"""Fields of other people's JSON files, with the file and the field in every error.

Every `where` is a text such as "…/meta_expressions.json: video 'v1'" and begins the message.
`Faults` either raises an error, or collects it while the reading goes on (`data.prepare.check`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.bounds import check_nesting, check_text, refuse_constant

# Marks at the start of a text, the longer ones first.
MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}

# Most bytes of a file's name, and most letters of a path below a data set, on the usual systems.
NAME_BYTES = 255
PATH_LETTERS = 2048
# A broken file may have an error in each of its million parts.
MOST_FAULTS = 10_000


@dataclass
class Faults:
    """The errors in the files of a data set.

    `with faults.noted():` raises an error of the block, or collects it and skips the rest of the
    block.

    Attributes:
        collect: True to collect errors.
        frames_later: True if `data.prepare.verify` looks at every frame later, so that some may be
            missing now.
        found: The collected messages in order, each once; `MOST_FAULTS` at most.
    """

    collect: bool = False
    frames_later: bool = False
    found: dict[str, None] = field(default_factory=dict)

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            if not self.collect:
                raise
            if len(self.found) < MOST_FAULTS:
                self.found[str(error)] = None

    def report(self, message: str) -> None:
        """Raise or collect one error, from code without a block to skip."""
        with self.noted():
            raise ValueError(message)


def load_json(
    file: Path,
    kind: type = dict,
    old_encodings: bool = False,
) -> Any:
    """Return the content of a JSON file.

    Args:
        kind: Type of the content.
        old_encodings: True if a text that is not UTF-8 may be cp1252 or GBK.

    Raises:
        ValueError: The file is missing, empty, cut short, not JSON, or holds another type.
    """
    if not file.is_file():
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        )
    raw = read_whole(file)
    if not raw.strip():
        raise ValueError(f"{file} is empty, so it is not JSON: download it again")

    content = _decoded_json(file, raw, old_encodings)
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "a list"
        raise ValueError(
            f"{file} holds a {type(content).__name__}, not {wanted}: it is not in the expected "
            "format"
        )
    return content


def read_whole(file: Path) -> bytes:
    """Return the bytes of a file of annotations.

    Raises:
        ValueError: There are too many, or they cannot be read.
    """
    try:
        size = file.stat().st_size
        check_text(size, str(file))
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error


def read_text(file: Path, encoding: str) -> str:
    """Return the text of a file of annotations.

    Raises:
        ValueError: As `read_whole`, or it is in another encoding.
    """
    raw = read_whole(file)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not a text in {encoding} ({error}): save it so, or download it again"
        ) from error


def _decoded_json(file: Path, raw: bytes, old_encodings: bool) -> Any:
    encoding = "utf-8"
    marked = encoding_of(raw, "") != ""
    if old_encodings and not marked and not _decodes(raw, "utf-8"):
        try:
            encoding = chinese_or_western(raw)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    try:
        return parsed_json(raw, encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not JSON ({error}): save it as UTF-8, or download it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): download it again") from error


def parsed_json(raw: bytes, encoding: str = "utf-8") -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is not JSON, too deep, or holds NaN, Infinity or an endless number.
    """
    encoding = encoding_of(raw, encoding)
    text = raw.decode(encoding)
    # A copy only where brackets may be parts of other letters.
    is_utf8 = encoding.startswith("utf-8")
    check_nesting(raw if is_utf8 else text.encode("utf-8", "replace"), "its text")
    return json.loads(text, parse_constant=refuse_constant)


def encoding_of(raw: bytes, otherwise: str = "utf-8") -> str:
    """Return the encoding that a mark at the start tells, as Notepad and PowerShell write it."""
    for mark, encoding in MARKS.items():
        if raw.startswith(mark):
            return encoding
    return otherwise


def chinese_or_western(raw: bytes) -> str:
    """Return the encoding of a text in no UTF: "gb18030" or "cp1252".

    Western letters beyond ASCII stand alone or in twos; Chinese ones are rows of pairs.

    Raises:
        ValueError: It could be both, or neither.
    """
    rows = re.findall(rb"[\x80-\xff]+", raw)
    longest = max((len(row) for row in rows), default=0)
    in_pairs = all(len(row) % 2 == 0 and min(row) >= 0xA1 for row in rows)
    if longest >= 4 and in_pairs and _decodes(raw, "gb18030"):
        return "gb18030"
    if (longest < 4 or not _decodes(raw, "gb18030")) and _decodes(raw, "cp1252"):
        return "cp1252"
    raise ValueError("its text is not UTF-8, and could be GBK or cp1252: save it as UTF-8")


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def whole(found: Any) -> Any:
    """Return a whole number written as a float (3.0: pandas, JavaScript) as an int.

    All else comes back as it is.
    """
    if isinstance(found, float) and found.is_integer():
        return int(found)
    return found


def value(
    mapping: Any,
    key: str,
    kind: type | tuple[type, ...],
    where: str,
) -> Any:
    """Return `mapping[key]`.

    Raises:
        ValueError: The key is missing, or its value is not a `kind`. A bool is not an int, and
            infinity is not a number. 3.0 is an int.
    """
    if not isinstance(mapping, dict) or key not in mapping:
        raise ValueError(
            f'{where}: key "{key}" is missing; the file is not in the expected format, or cut short'
        )
    found = mapping[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if int in kinds and float not in kinds:
        found = whole(found)
    is_wrong_bool = isinstance(found, bool) and bool not in kinds
    is_finite = not isinstance(found, float) or math.isfinite(found)
    if not isinstance(found, kinds) or is_wrong_bool or not is_finite:
        names = " or ".join(one.__name__ for one in kinds)
        raise ValueError(f'{where}: "{key}" is {found!r:.60}, not a {names}')
    return found


def texts(mapping: Any, key: str, where: str) -> tuple[str, ...]:
    """Return a list of names; some data sets write numbers.

    Raises:
        ValueError: The key is missing, or its value is not a list of names.
    """
    names = value(mapping, key, list, where)
    for name in names:
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise ValueError(f'{where}: "{key}" holds {name!r:.60}, which is not a name')
    return tuple(str(name) for name in names)


def inside(name: str, where: str, key: str) -> str:
    """Return the name of a file or folder that stays below the data set's folder.

    Args:
        key: What holds the name, for the message.

    Raises:
        ValueError: The name is empty, absolute, too long, or leads out of its folder.
    """
    parts = name.replace("\\", "/").split("/")
    longest = max(len(part.encode(errors="replace")) for part in parts)
    if longest > NAME_BYTES or len(name) > PATH_LETTERS:
        raise ValueError(
            f"{where}: {key} is {name!r:.80}, longer than a file's name may be: is this the "
            "right file?"
        )
    # "C:" is absolute where the data set or a zip of predictions is opened on Windows.
    is_absolute = not parts[0] or re.fullmatch(r"[A-Za-z]:", parts[0])
    if is_absolute or ".." in parts or "\0" in name:
        raise ValueError(
            f"{where}: {key} is {name!r:.80}, which leads out of the data set's folder: give a "
            'name without ".." that does not begin with "/"'
        )
    return name


def optional(
    mapping: dict[str, Any],
    key: str,
    kind: type,
    where: str,
    default: Any,
) -> Any:
    """Return `mapping[key]` as `value` does, or the default if the key is missing."""
    if key not in mapping:
        return default
    return value(mapping, key, kind, where)


def load_videos(file: Path) -> dict[str, Any]:
    """Return the "videos" of a JSON file, {uid: entry}."""
    videos: dict[str, Any] = value(load_json(file), "videos", dict, str(file))
    return videos


def splits_found(names: Iterable[str]) -> str:
    """Return the names of splits for an error message."""
    return ", ".join(sorted(names)) or "none"
