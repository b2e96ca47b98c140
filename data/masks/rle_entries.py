"""The annotations of a JSON file with run-length encoded masks, one after the other, each checked.

`data.masks.rle_index` keeps them in an index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np
from pycocotools import mask as coco

from data.bounds import ShallowStream, check_outline, check_pixels
from data.fields import encoding_of, value, whole

BOM = b"\xef\xbb\xbf"

# (key, the masks as the file has them, or the error in them)
KeyedMasks = tuple[str, Any]


@dataclass(frozen=True)
class Entry:
    """Facts about the masks of one key.

    Attributes:
        height: Height of the masks; 0 if no frame has one.
        width: Width of the masks; 0 if no frame has one.
        problem: The error in them; "" if all is well.
    """

    num_frames: int
    num_masks: int
    height: int
    width: int
    problem: str


def read_entries(file: Path, kind: str) -> Iterator[KeyedMasks]:
    """Yield every key with its masks, as a stream: memory holds one annotation at a time.

    Args:
        kind: Kind of the file, see `data.masks.rle_index`.

    Raises:
        ValueError: The file is empty, or holds something else.
    """
    with open(file, "rb") as stream:
        start = stream.read(4096)
    if encoding_of(start) not in ("utf-8", "utf-8-sig"):
        raise ValueError(f"{file} is {encoding_of(start)}: save it as UTF-8")
    first = start.removeprefix(BOM).lstrip()[:1]
    wanted = b"[" if kind == "groundings" else b"{"
    if first != wanted:
        what = "is empty"
        if first:
            what = f"begins with {first.decode('latin-1')!r}, not with {wanted.decode()!r}"
        raise ValueError(f"{file} {what}: it is not JSON in the expected format: download it again")
    return _READ[kind](file)


def entries_of(key: str, masks: Any) -> tuple[Entry, list[str | None]]:
    """Return the facts about an annotation and its counts for each frame; no counts with a problem.

    Args:
        masks: The masks as a file has them, or the error in them.
    """
    try:
        if isinstance(masks, ValueError):
            raise masks
        counts_F, (height, width) = _checked(masks, f"key {key!r}")
    except ValueError as error:
        num_frames = len(masks) if isinstance(masks, list) else 0
        return Entry(num_frames, 0, 0, 0, str(error)), []
    num_masks = len(counts_F) - counts_F.count(None)
    return Entry(len(counts_F), num_masks, height, width, ""), counts_F


def pixels_covered(counts: list[str]) -> np.ndarray:
    """Return the number of pixels of each compressed encoding, int64 (n,).

    It must be height x width: decoding fewer reads uninitialised memory.

    The format (COCO's maskApi.c): a run is a number of groups of 6 bits, written as characters from
    48 on. Bit 6 of a group announces another one, and bit 5 of the last is the sign. From the
    fourth run on, each is a difference to the last but one, so it counts in itself and in every
    second run after it.
    """
    lengths = np.array([len(text) for text in counts])
    if not lengths.size or not lengths.all():
        # Empty texts have no runs, so the texts are counted one by one.
        covered = [pixels_covered([text])[0] if text else 0 for text in counts]
        return np.array(covered, np.int64)

    letters = "".join(counts).encode("latin-1", "replace")
    codes = np.frombuffer(letters, np.uint8) - np.uint8(48)
    stops = np.cumsum(lengths)
    runs, ends = _runs(codes, stops)

    # `first` and `beyond` are the numbers of each text's first run and of the run after its last.
    beyond = np.searchsorted(ends, stops)
    first = np.append(0, beyond[:-1])
    last_of_text = np.repeat(beyond - 1, beyond - first)
    to_last = last_of_text - np.arange(len(runs))
    times = to_last // 2 + 1
    # The first run of a text is no part of a sum of differences.
    times[first] = 1
    return np.add.reduceat(runs * times, first)


def _runs(codes: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each run, and the place of its last character.

    Args:
        codes: The characters of all texts, without their offset.
        stops: The place after the last character of each text.
    """
    # A cut text ends its last run.
    ended = (codes & 32) == 0
    ended[stops - 1] = True
    ends = np.flatnonzero(ended)
    starts = np.append(0, ends[:-1] + 1)
    groups = ends - starts + 1

    # The value of each run: its groups of 5 bits, lowest first. Few runs are long.
    digits = codes & 31
    runs = digits[starts].astype(np.int64)
    most_groups = min(int(groups.max()), 12)
    for k in range(1, most_groups):
        longer = np.flatnonzero(groups > k)
        higher = digits[starts[longer] + k].astype(np.int64)
        runs[longer] += higher << (5 * k)
    negative = np.flatnonzero(codes[ends] & 16)
    bits = 5 * np.minimum(groups[negative], 12)
    runs[negative] -= np.int64(1) << bits
    return runs, ends


def _checked(masks: Any, where: str) -> tuple[list[str | None], tuple[int, int]]:
    """Return the counts for each frame and the one size of all masks, (0, 0) without a mask."""
    if not isinstance(masks, list):
        raise ValueError(
            f"{where} is a {type(masks).__name__}, not a list with one mask or null for each frame"
        )
    counts_F: list[str | None] = [None] * len(masks)
    sizes: dict[int, tuple[int, int]] = {}
    for frame, mask in enumerate(masks):
        if mask is not None:
            counts_F[frame], sizes[frame] = _counts(mask, f"{where}: frame {frame}")
    if not sizes:
        return counts_F, (0, 0)

    size = Counter(sizes.values()).most_common(1)[0][0]
    for frame, its_size in sizes.items():
        if its_size != size:
            raise ValueError(
                f'{where}: frame {frame}: "size" is {_by(its_size)}, but that of most frames '
                f"{_by(size)} (height x width): the masks of an annotation have one size"
            )
    _check_coverage(counts_F, size, where)
    return counts_F, size


def _check_coverage(
    counts_F: Sequence[str | None],
    size: tuple[int, int],
    where: str,
) -> None:
    """Raise ValueError unless every encoding covers all pixels of its frame."""
    frames = []
    counts = []
    for frame, text in enumerate(counts_F):
        if text is not None:
            frames.append(frame)
            counts.append(text)
    pixels = size[0] * size[1]
    covered_n = pixels_covered(counts)
    for frame, covered in zip(frames, covered_n, strict=True):
        if covered != pixels:
            raise ValueError(
                f'{where}: frame {frame}: "counts" cover {covered} pixels, but "size" is '
                f"{_by(size)} (height x width) = {pixels}: the encoding is damaged or its size "
                "wrong"
            )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _counts(mask: Any, where: str) -> tuple[str, tuple[int, int]]:
    size = value(mask, "size", list, where)
    counts = value(mask, "counts", (str, list), where)
    sides = [whole(side) for side in size]
    if len(sides) != 2 or not _is_side(sides[0]) or not _is_side(sides[1]):
        raise ValueError(f'{where}: "size" is {size!r:.60}, not [height, width]')
    height, width = sides
    check_pixels(height, width, f'{where}: "size"')
    if isinstance(counts, list):
        counts = _compressed(counts, height, width, where)
    return counts, (height, width)


def _compressed(runs: list[Any], height: int, width: int, where: str) -> str:
    """Return an uncompressed encoding, the lengths of its runs, as a compressed one."""
    _check_runs(runs, height * width, where)
    rle = coco.frPyObjects({"counts": runs, "size": [height, width]}, height, width)
    text: str = rle["counts"].decode("ascii")
    return text


def _is_side(side: Any) -> bool:
    return type(side) is int and side > 0


def items(file: Path, prefix: str) -> Iterator[Any]:
    """Yield the values below a path of a JSON file, one after the other."""
    with _text_of(file) as stream:
        yield from ijson.items(ShallowStream(str(file), stream), prefix, use_float=True)


@contextmanager
def _text_of(file: Path) -> Iterator[BinaryIO]:
    """Open a JSON file behind the mark that some editors put at the start."""
    with open(file, "rb") as stream:
        if stream.read(len(BOM)) != BOM:
            stream.seek(0)
        yield stream


def _read_mask_dict(file: Path) -> Iterator[KeyedMasks]:
    with _text_of(file) as stream:
        yield from ijson.kvitems(ShallowStream(str(file), stream), "", use_float=True)


def _read_foreground(file: Path) -> Iterator[KeyedMasks]:
    for key, found in _read_mask_dict(file):
        if isinstance(found, dict):
            found = found.get("masks_rle")
        yield key, found


def _read_instances(file: Path) -> Iterator[KeyedMasks]:
    """Yield each annotation as the mask of a video of one frame."""
    # Two passes: the sizes of all images, then the annotations.
    sizes: dict[Any, dict[str, Any]] = {}
    for image in items(file, "images.item"):
        if isinstance(image, dict):
            size = {"height": image.get("height"), "width": image.get("width")}
            sizes[value(image, "id", (int, str), f"{file}: images")] = size
    if not sizes:
        raise ValueError(
            f'{file}: key "images" is missing or empty: it is no instances.json of COCO, or cut '
            "short"
        )
    for annotation in items(file, "annotations.item"):
        key = str(value(annotation, "id", (int, str), f"{file}: annotations"))
        try:
            yield key, [_rle_of(annotation, sizes, f"key {key!r}")]
        except ValueError as error:
            yield key, error


def _rle_of(annotation: dict[str, Any], sizes: dict[Any, Any], where: str) -> Any:
    """Return the mask of an annotation, merged from its polygons, or its own encoding."""
    shape = value(annotation, "segmentation", (list, dict), where)
    number = value(annotation, "image_id", (int, str), where)
    image = sizes.get(number)
    if image is None:
        raise ValueError(f'{where}: "image_id" is {number!r}, which "images" does not hold')
    height = value(image, "height", int, where)
    width = value(image, "width", int, where)

    if height <= 0 or width <= 0:
        raise ValueError(f"{where}: its image is {height} x {width} (height x width)")
    check_pixels(height, width, f"{where}: its image")

    if isinstance(shape, list):
        return _drawn(shape, height, width, where)
    if isinstance(value(shape, "counts", (list, str), where), list):
        # The encoding of a crowd is not compressed.
        counts = _compressed(shape["counts"], height, width, where)
        return {"size": [height, width], "counts": counts}
    return shape


def _drawn(polygons: list[Any], height: int, width: int, where: str) -> Any:
    """Return the union of polygons as COCO's own code draws it; None without any."""
    for polygon in polygons:
        check_outline(polygon, height, width, f'{where}: "segmentation"')
    if not polygons:
        return None
    if len(polygons[0]) == 4:
        raise ValueError(
            f'{where}: "segmentation" begins with four numbers, which COCO takes for a box: put a '
            "polygon first, or take it out"
        )
    rle = coco.merge(coco.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _check_runs(runs: list[Any], pixels: int, where: str) -> None:
    """Raise ValueError unless the runs of an uncompressed encoding fill its image."""
    are_lengths = all(type(run) is int and run >= 0 for run in runs)
    if not are_lengths or sum(runs) != pixels:
        raise ValueError(
            f'{where}: "counts" is {runs!r:.60}, which are not the lengths of runs that fill '
            f"{pixels} pixels: the encoding is damaged or its image wrong"
        )


def _read_groundings(file: Path) -> Iterator[KeyedMasks]:
    """Yield the mask of each phrase of a caption as that of a video of one frame."""
    for place, item in enumerate(items(file, "item")):
        phrases = item.get("groundings") if isinstance(item, dict) else None
        if not isinstance(phrases, dict):
            continue
        for i, found in enumerate(phrases.values()):
            key = f"{place}/{i}"
            try:
                yield key, [_merged(found, f"key {key!r}")]
            except ValueError as error:
                yield key, error


def _merged(phrase: Any, where: str) -> Any:
    """Return the union of a phrase's masks."""
    masks = value(phrase, "rle_masks", list, where)
    counts, size = _checked(masks, where)
    encoded = []
    for text in counts:
        if text is not None:
            encoded.append({"size": list(size), "counts": text.encode("ascii")})
    if not encoded:
        return None
    return {"size": list(size), "counts": coco.merge(encoded)["counts"].decode("ascii")}


def _read_sam_masks(file: Path) -> Iterator[KeyedMasks]:
    """Yield the mask of each annotation as that of a video of one frame."""
    for annotation in items(file, "annotations.item"):
        if isinstance(annotation, dict) and "sam_mask" in annotation:
            yield str(annotation.get("id")), [annotation["sam_mask"]]


_READ = {
    "mask_dict": _read_mask_dict,
    "foreground": _read_foreground,
    "instances": _read_instances,
    "groundings": _read_groundings,
    "sam_masks": _read_sam_masks,
}
