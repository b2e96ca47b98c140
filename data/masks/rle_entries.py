"""The annotations of a JSON file with run-length encoded masks, one after the other, each checked.

Knows what is inside the file, not where its index is (`data.masks.rle_index`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from pycocotools import mask as coco

from data.readers.fields import value


@dataclass(frozen=True)
class Entry:
    """What one key holds; `height` and `width` are 0 where no frame has a mask, `problem` is empty if all is well."""

    num_frames: int
    num_masks: int
    height: int
    width: int
    problem: str


def read_entries(file: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """(key, its masks as they stand in the file, or the ValueError that they are). Raises ValueError if the file is
    empty or holds something else."""
    with open(file, "rb") as stream:
        first = stream.read(4096).lstrip()[:1]
    if first != b"{":
        what = f"begins with {first.decode('latin-1')!r}, not with '{{'" if first else "is empty"
        raise ValueError(f"{file} {what}: it is not JSON in the expected format: download it again")
    return _READ[kind](file)


def entries_of(key: str, masks: Any) -> tuple[Entry, list[str | None]]:
    """What is known of an annotation, and its counts for each frame (none where there is a problem)."""
    try:
        if isinstance(masks, ValueError):
            raise masks
        counts_F, (height, width) = _checked(masks, f"key {key!r}")
    except ValueError as error:
        return Entry(len(masks) if isinstance(masks, list) else 0, 0, 0, 0, str(error)), []
    return Entry(len(counts_F), len(counts_F) - counts_F.count(None), height, width, ""), counts_F


def pixels_covered(counts: list[str]) -> np.ndarray:
    """How many pixels the runs of each compressed encoding cover: int64 (n,). It must be height x width, or decoding
    reads memory that was never written.

    The format (COCO's maskApi.c): runs in groups of 6 bits from character 48 on, bit 6 says that another group
    follows, bit 5 of the last is the sign, and from the fourth run on each is a difference to the last but one. A run
    so counts in itself and in every second run after it.
    """
    lengths = np.array([len(text) for text in counts])
    if not lengths.size or not lengths.all():
        return np.array([pixels_covered([text])[0] if text else 0 for text in counts], np.int64)
    codes = np.frombuffer("".join(counts).encode("latin-1", "replace"), np.uint8) - np.uint8(48)
    stops = np.cumsum(lengths)
    ended = (codes & 32) == 0
    ended[stops - 1] = True  # a cut text ends its last run
    ends = np.flatnonzero(ended)
    starts = np.append(0, ends[:-1] + 1)
    groups = ends - starts + 1
    digits = codes & 31
    runs = digits[starts].astype(np.int64)
    for k in range(1, min(int(groups.max()), 12)):  # few runs are long
        longer = np.flatnonzero(groups > k)
        runs[longer] += digits[starts[longer] + k].astype(np.int64) << (5 * k)
    negative = np.flatnonzero(codes[ends] & 16)
    runs[negative] -= np.int64(1) << (5 * np.minimum(groups[negative], 12))
    beyond = np.searchsorted(ends, stops)  # of each text, the number of the first run of the next
    first = np.append(0, beyond[:-1])
    times = (np.repeat(beyond - 1, beyond - first) - np.arange(len(runs))) // 2 + 1
    times[first] = 1
    return np.add.reduceat(runs * times, first)


def _checked(masks: Any, where: str) -> tuple[list[str | None], tuple[int, int]]:
    if not isinstance(masks, list):
        raise ValueError(
            f"{where} is a {type(masks).__name__}, not a list with one mask or null for each frame"
        )
    counts_F: list[str | None] = [None] * len(masks)
    sizes: dict[int, tuple[int, int]] = {}
    for i, mask in enumerate(masks):
        if mask is not None:
            counts_F[i], sizes[i] = _counts(mask, f"{where}: frame {i}")
    if not sizes:
        return counts_F, (0, 0)
    size = Counter(sizes.values()).most_common(1)[0][0]
    for i, its_size in sizes.items():
        if its_size != size:
            raise ValueError(
                f'{where}: frame {i}: "size" is {_by(its_size)}, but that of most frames {_by(size)} (height x width): '
                "the masks of an annotation have one size"
            )
    present = [(i, counts) for i, counts in enumerate(counts_F) if counts is not None]
    for (i, _), covered in zip(
        present, pixels_covered([counts for _, counts in present]), strict=True
    ):
        if covered != size[0] * size[1]:
            raise ValueError(
                f'{where}: frame {i}: "counts" cover {covered} pixels, but "size" is {_by(size)} (height x width) = '
                f"{size[0] * size[1]}: the encoding is damaged or its size wrong"
            )
    return counts_F, size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _counts(mask: Any, where: str) -> tuple[str, tuple[int, int]]:
    size = value(mask, "size", list, where)
    counts = value(mask, "counts", str, where)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f'{where}: "size" is {size}, not [height, width]')
    return counts, (size[0], size[1])


def _mask_dict(file: Path) -> Iterator[tuple[str, Any]]:
    with open(file, "rb") as stream:
        yield from ijson.kvitems(stream, "", use_float=True)


def _foreground(file: Path) -> Iterator[tuple[str, Any]]:
    for key, found in _mask_dict(file):
        yield key, found.get("masks_rle") if isinstance(found, dict) else found


def _instances(file: Path) -> Iterator[tuple[str, Any]]:
    """Two passes: the sizes of all images, then the annotations; each is the mask of a video of one frame."""
    with open(file, "rb") as stream:
        found = (
            image
            for image in ijson.items(stream, "images.item", use_float=True)
            if isinstance(image, dict)
        )
        sizes = {
            image.get("id"): {key: image.get(key) for key in ("height", "width")} for image in found
        }
    if not sizes:
        raise ValueError(
            f'{file}: key "images" is missing or empty: it is no instances.json of COCO, or cut short'
        )
    with open(file, "rb") as stream:
        for one in ijson.items(stream, "annotations.item", use_float=True):
            key = str(value(one, "id", (int, str), f"{file}: annotations"))
            try:
                yield key, [_drawn(one, sizes, f"key {key!r}")]
            except ValueError as error:
                yield key, error


def _drawn(found: dict[str, Any], sizes: dict[Any, Any], where: str) -> Any:
    """One mask of all polygons of an annotation, or of its run-length encoding (a crowd's is not compressed)."""
    shape = value(found, "segmentation", (list, dict), where)
    image = sizes.get(found.get("image_id"))
    if image is None:
        raise ValueError(
            f'{where}: "image_id" is {found.get("image_id")!r}, which "images" does not hold'
        )
    height = value(image, "height", int, where)
    width = value(image, "width", int, where)
    if isinstance(shape, list):
        if not all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            for polygon in shape
        ):
            raise ValueError(
                f'{where}: "segmentation" holds a polygon that is not a flat list of 3 or more points'
            )
        if not shape:
            return None
        merged = coco.merge(coco.frPyObjects(shape, height, width))
    elif isinstance(value(shape, "counts", (list, str), where), list):
        merged = coco.frPyObjects(
            {**shape, "size": value(shape, "size", list, where)}, height, width
        )
    else:
        return shape
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


_READ = {"mask_dict": _mask_dict, "foreground": _foreground, "instances": _instances}
