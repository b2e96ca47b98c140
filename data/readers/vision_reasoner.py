"""Read VisionReasoner's training images (MultiObjects-7K): boxes and points without masks.

    <root>/data/<split>-*.parquet     as downloaded from Hugging Face
    <root>/<split>/data-*.arrow       or as `datasets.save_to_disk` writes it

A row is {"id", "problem", "solution", "image": {"bytes"}, "img_height", "img_width"}. "image" is
squeezed to 840 x 840 pixels, and "solution" is a JSON text in its pixels:

    [{"bbox_2d": [x0, y0, x1, y1], "point_2d": [x, y]}, ..]     x1 and y1 inside the box

An image is a video of one frame, of the size of "image"; "img_height" and "img_width" are those of
the original and not used. A target has a `Place` and no mask, so only rewards of boxes and points
learn from it (`System.needs_masks`), and nothing is measured on it. The one published split is
train. The images are written once as files beside their source ("<source>.images"), their texts to
"<source>.rows.json".

Sources: dvlab-research/Seg-Zero, prepare_dataset/gen_training_dataset.py and
verl/utils/rl_dataset.py; Ricky06662/VisionReasoner_multi_object_7k_840 on Hugging Face (the card's
licence was not seen).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.types import Place, Sample, Target, Video
from data.derived import derived_places, writable_place, writing
from data.fields import Faults, inside, load_json, parsed_json, splits_found, value
from data.frames.images import image_size, visible
from data.masks.stores import Size

COLUMNS = ("id", "problem", "solution", "image")
ROWS = ".rows.json"
IMAGES = ".images"
# Rows in memory at a time.
BATCH = 64
# First bytes of a JPEG file; the others are PNGs.
JPEG = b"\xff\xd8"

# (id, problem, solution, name of the image)
Row = tuple[str, str, str, str]


def read_vision_reasoner(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all rows in the order of the files.

    `uid` is "<id>/0"; an id that comes again is "<id>-<its row>/0".
    """
    faults = faults or Faults()
    samples: list[Sample] = []
    seen: set[str] = set()
    number = 0
    for file in _files(Path(root), split):
        with faults.noted():
            folder, rows = _rows(file)
            for row in rows:
                where = f"{file}: row {number}"
                with faults.noted():
                    sample = _sample(row, folder, number, seen, where)
                    seen.add(sample.video.uid)
                    samples.append(sample)
                number += 1
    return samples


def _files(root: Path, split: str) -> list[Path]:
    """Return the files of a split, in order."""
    inside(split, str(root), "the split")
    for folder, ending in (
        (root / "data", f"{split}-*.parquet"),
        (root, f"{split}-*.parquet"),
        (root / split, "data-*.arrow"),
    ):
        files = visible(folder.glob(ending))
        if files:
            return files
    known = {path.name.partition("-")[0] for path in root.glob("data/*.parquet")}
    known |= {path.parent.name for path in root.glob("*/data-*.arrow")}
    raise ValueError(
        f"{root}: neither data/{split}-*.parquet nor {split}/data-*.arrow is there; splits under "
        f"it: {splits_found(known)} (data.root)"
    )


def _rows(file: Path) -> tuple[Path, list[Row]]:
    """Return the folder of a file's images and its rows. Unpack it if that is missing or older."""
    folder = writable_place(file, IMAGES)
    for place in derived_places(file, ROWS):
        is_newer = place.is_file() and place.stat().st_mtime_ns >= file.stat().st_mtime_ns
        if is_newer and folder.is_dir():
            return folder, [tuple(row) for row in load_json(place, list)]  # type: ignore[misc]

    # Not with the other readers: to load Arrow takes every process a while.
    import pyarrow as pa

    folder.mkdir(exist_ok=True)
    rows: list[Row] = []
    try:
        for number, row in enumerate(_table(file)):
            rows.append(_unpacked(row, folder, number, f"{file}: row {number}"))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"{file} is not a readable table ({first_line}): download it again"
        ) from error
    with writing(writable_place(file, ROWS)) as part:
        part.write_text(json.dumps(rows))
    return folder, rows


def _table(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet or Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as table:
            _check_columns(file, table.schema_arrow.names)
            for batch in table.iter_batches(BATCH, columns=list(COLUMNS)):
                yield from batch.to_pylist()
        return
    with pa.memory_map(str(file)) as stream, pa.ipc.open_stream(stream) as table:
        _check_columns(file, table.schema.names)
        for batch in table:
            for start in range(0, len(batch), BATCH):
                yield from batch.slice(start, BATCH).to_pylist()


def _check_columns(file: Path, names: list[str]) -> None:
    for name in COLUMNS:
        if name not in names:
            raise ValueError(
                f'{file}: column "{name}" is missing; it has {", ".join(names)}: it is not one of '
                "VisionReasoner's files"
            )


def _unpacked(row: dict[str, Any], folder: Path, number: int, where: str) -> Row:
    """Return a row with its image in a file."""
    texts = []
    for key in COLUMNS[:3]:
        texts.append(value(row, key, str, where))
    image = value(row, "image", dict, where)
    pixels = value(image, "bytes", bytes, f'{where}: "image"')
    suffix = ".jpg" if pixels.startswith(JPEG) else ".png"
    name = f"{number:06d}{suffix}"
    with writing(folder / name) as part:
        part.write_bytes(pixels)
    return texts[0], texts[1], texts[2], name


def _sample(row: Row, folder: Path, number: int, seen: set[str], where: str) -> Sample:
    uid, query, solution, image = row
    inside(uid, where, '"id"')
    if uid in seen:
        uid = f"{uid}-{number}"
    if not query.strip():
        raise ValueError(f'{where}: "problem" is empty')
    height, width = image_size(folder / image)
    video = Video(uid, str(folder), (Path(image).stem,), height, width)

    targets = []
    for i, place in enumerate(_places(solution, (height, width), where)):
        targets.append(Target(f"{uid}/{i}", (None,), place))
    return Sample(f"{uid}/0", video, query, tuple(targets))


def _places(solution: str, hw: Size, where: str) -> list[Place]:
    """Return the objects of a solution."""
    try:
        objects = parsed_json(solution.encode())
    except ValueError as error:
        raise ValueError(f'{where}: "solution" is not JSON ({error})') from error
    if not isinstance(objects, list):
        raise ValueError(f'{where}: "solution" is {solution!r:.60}, not a list of objects')

    places = []
    for i, found in enumerate(objects):
        its = f'{where}: "solution": object {i}'
        x0, y0, x1, y1 = _numbers(found, "bbox_2d", 4, hw, its)
        x, y = _numbers(found, "point_2d", 2, hw, its)
        if x1 < x0 or y1 < y0:
            raise ValueError(f'{its}: "bbox_2d" is {found["bbox_2d"]}: its corners are swapped')
        places.append(Place(0, (x0, y0, x1 + 1, y1 + 1), (x, y)))
    return places


def _numbers(found: Any, key: str, count: int, hw: Size, where: str) -> list[float]:
    """Return the coordinates of a box or point, all of them in the image."""
    numbers = value(found, key, list, where)
    height, width = hw
    # VisionReasoner rounds to the nearest number, so the last pixel may become the size.
    limits = [width, height, width, height][:count]
    inside_image = len(numbers) == count
    for number, limit in zip(numbers, limits, strict=False):
        inside_image = inside_image and _is_number(number) and 0 <= number <= limit
    if not inside_image:
        raise ValueError(
            f'{where}: "{key}" is {numbers!r:.60}, not {count} numbers in {height} x {width} pixels'
        )
    return [float(number) for number in numbers]


def _is_number(number: Any) -> bool:
    """Return True for a finite number; True and False are none."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return is_number and math.isfinite(number)
