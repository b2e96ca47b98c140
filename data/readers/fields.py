"""Reading JSON that somebody else wrote: files, their fields, and errors that name both.

Every `where` is a text such as "…/meta_expressions.json: video 'v1'"; it begins the message. `Faults` decides what an
error does: stop the reading, or be noted while the reading goes on (`data.prepare.check`). Knows no data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

IMAGE_SUFFIXES = (
    ".jpg",
    ".png",
    ".jpeg",
)  # the order in which `data.frames.frames` looks for a frame
# EXIF: these exchange height and width
_ORIENTATION = 274
_TURNED = (5, 6, 7, 8)


@dataclass
class Faults:
    """`with faults.noted():` raises what is wrong inside, or collects it and skips the rest of the block."""

    collect: bool = False
    frames_later: bool = (
        False  # `data.prepare.verify` looks at every frame afterwards: some may be missing now
    )
    found: dict[str, None] = field(default_factory=dict)  # messages in order, each once

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if not self.collect:
                raise
            self.found[str(error)] = None

    def report(self, message: str) -> None:
        """One thing that is wrong, from code that has no block to leave."""
        with self.noted():
            raise ValueError(message)


def load_json(file: Path, kind: type = dict, encodings: Sequence[str] = ("utf-8",)) -> Any:
    """The content of a JSON file that must hold a `kind`; encodings are tried in turn.

    ValueError naming the file: it is missing, empty, cut short, not JSON, or holds something else.
    """
    if not file.is_file():
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        )
    raw = file.read_bytes()
    if not raw.strip():
        raise ValueError(f"{file} is empty, so it is not JSON: download it again")
    problem: Exception | None = None
    for encoding in encodings:
        try:
            content = json.loads(raw.decode(encoding))
            break
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            problem = problem or error
    else:
        raise ValueError(f"{file} is not JSON ({problem}): download it again") from problem
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "a list"
        raise ValueError(
            f"{file} holds a {type(content).__name__}, not {wanted}: it is not in the expected format"
        )
    return content


def value(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`mapping[key]`, which must be there and of that kind (a bool is no number)."""
    if not isinstance(mapping, dict) or key not in mapping:
        raise ValueError(
            f'{where}: key "{key}" is missing; the file is not in the expected format, or cut short'
        )
    found = mapping[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        names = " or ".join(one.__name__ for one in kinds)
        raise ValueError(f'{where}: "{key}" is {found!r:.60}, not a {names}')
    return found


def texts(mapping: Any, key: str, where: str) -> tuple[str, ...]:
    """A list of names: data sets write texts, or numbers."""
    found = value(mapping, key, list, where)
    wrong = next((i for i in found if not isinstance(i, (str, int)) or isinstance(i, bool)), None)
    if wrong is not None:
        raise ValueError(f'{where}: "{key}" holds {wrong!r:.60}, which is not a name')
    return tuple(str(one) for one in found)


def image_size(file: Path) -> tuple[int, int]:
    """(height, width) from the header alone, as a viewer (and `cv2.imread`) turns the picture."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.format == "JPEG" and image.getexif().get(_ORIENTATION) in _TURNED
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        ) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a readable image ({error}): download it again") from error
    return (width, height) if turned else (height, width)
