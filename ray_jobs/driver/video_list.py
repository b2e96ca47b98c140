"""Several videos and their sentences: a folder of videos, or a list as CSV.

    video,sentence
    kitchen.mp4,the cup that falls first

The paths of a list are relative to it. Other columns are left alone.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from core.types import Notes, Sample
from data.fields import encoding_of
from data.frames.images import is_hidden, is_image
from data.frames.probing import VIDEO_SUFFIXES, as_people_count, check_sizes, probe_with_rate
from ray_jobs.record.segmented import folder_name

COLUMNS = ("video", "sentence")


@dataclass(frozen=True)
class Line:
    """A video and a sentence as a person wrote them.

    Attributes:
        place: Where, for messages.
    """

    video: Path
    sentence: str
    place: str


@dataclass(frozen=True)
class Wanted:
    """A video to segment.

    Attributes:
        rate: Its frames a second; None for images.
        folder: The place of its results.
    """

    sample: Sample
    rate: Fraction | None
    folder: Path


def is_list(path: str | Path) -> bool:
    """Return whether a path is a list by its name."""
    return Path(path).suffix.lower() == ".csv"


def names_several(path: str | Path) -> bool:
    """Return whether a path is a list, or a folder of videos instead of one of images."""
    path = Path(path).expanduser()
    if is_list(path):
        return True
    return path.is_dir() and not _holds_images(path) and bool(videos_in(path))


def videos_in(folder: Path) -> list[Path]:
    """Return the video files and the folders of images in a folder, sorted as people count."""
    found = []
    for path in folder.iterdir():
        if is_hidden(path.name):
            continue
        is_video = path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
        if is_video or (path.is_dir() and _holds_images(path)):
            found.append(path)
    return sorted(found, key=lambda path: as_people_count(path.name))


def _holds_images(folder: Path) -> bool:
    return any(is_image(name) for name in os.listdir(folder))


def check_sentence(sentence: str) -> None:
    """Refuse an empty sentence."""
    if not sentence.strip():
        raise ValueError("the sentence is empty: say what to segment")


def lines_of(path: str | Path, sentence: str) -> list[Line]:
    """Return the videos of a folder, each with this sentence, or the lines of a list.

    Raises:
        ValueError: An empty sentence, or a list that cannot be read.
    """
    path = Path(path).expanduser()
    if is_list(path):
        return _lines_of_list(path)
    check_sentence(sentence)
    return [Line(video, sentence.strip(), str(video)) for video in videos_in(path)]


def _lines_of_list(file: Path) -> list[Line]:
    if not file.is_file():
        raise ValueError(f"{file}: no such list")
    raw = file.read_bytes()
    try:
        text = raw.decode(encoding_of(raw, "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason}): save the list as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{file} has no column {missing[0]!r}: its first line names the columns video and "
            "sentence, divided by a comma"
        )
    lines = []
    for row in reader:
        place = f"{file}, line {reader.line_num}"
        video = (row["video"] or "").strip()
        sentence = (row["sentence"] or "").strip()
        if not video and not sentence:
            continue
        if not video or not sentence:
            empty = "video" if not video else "sentence"
            raise ValueError(f"{place}: the {empty} is empty")
        if row.get(None):  # type: ignore[call-overload]
            raise ValueError(
                f'{place}: more cells than columns; put a sentence with a comma into "quotes"'
            )
        lines.append(Line(file.parent / Path(video).expanduser(), sentence, place))
    if not lines:
        raise ValueError(f"{file}: no video below the first line")
    return lines


def read_all(lines: Sequence[Line], out: Path) -> tuple[list[Wanted], list[str]]:
    """Open all videos; return those to segment, and a message for each that cannot be read.

    Equal names get a number, so each line has a folder of its own, the same one every time.
    """
    wanted = []
    unreadable = []
    names: set[str] = set()
    for line in lines:
        try:
            video, rate = probe_with_rate(line.video)
            check_sizes(video)
        except ValueError as error:
            unreadable.append(f"{line.place}: {error}")
            continue
        name = _free(folder_name(video), names)
        names.add(name)
        # There is no truth to measure against.
        sample = Sample(f"{name}/0", video, line.sentence, (), notes=Notes(hidden=True))
        wanted.append(Wanted(sample, rate, out / name))
    return wanted, unreadable


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is not taken: name, name_2, name_3, ..."""
    free = name
    number = 2
    while free in taken:
        free = f"{name}_{number}"
        number += 1
    return free
