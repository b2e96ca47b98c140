"""Captions with a mask for some of their phrases, in the files of GLaMM (grounded conversation).

    GranDf_HA_GCG_train.json, OpenPsgGCG_train.json
        [{"file_name", "caption", "groundings": {phrase: {"token_positives": [start, stop],
                                                          "rle_masks": [COCO encoding, ..]}}}]
    RefCOCOg_GCG_train.json
        [{key: {"img_file_name", "caption", "refs": [{"sentence", "segmentation": [polygon, ..]}]}}]
    flickr_mergedGT_GCG_train.json
        {"images": [{"id", "file_name", "caption", "width", "height"}],
         "annotations": [{"id", "image_id", "bbox", "area", "tokens_positive": [[start, stop], ..],
                          "sam_mask": COCO encoding}]}

Positions are characters of the caption without its quotes. The files are large because of their
masks, so they are read as a stream; the masks of the first and last kind stay in the file
(`data.masks.rle_index`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ijson
from pycocotools import mask as coco

from core.types import Rle
from data.fields import Faults, value
from data.masks.lazy import LazyMasks
from data.masks.rle_entries import items

# A COCO polygon: x and y in turn.
Polygon = list[float]


@dataclass(frozen=True)
class Phrase:
    """A part [start, stop) of a caption, and its mask.

    Attributes:
        key: Key of the mask in the file's index; "" for polygons.
        polygons: The mask, if it is not in the index; not checked (`data.bounds.check_outline`).
    """

    start: int
    stop: int
    key: str = ""
    polygons: tuple[Polygon, ...] = ()


@dataclass(frozen=True)
class Caption:
    """The caption of an image.

    Attributes:
        place: Its place in the file.
        image: Name of the image.
        phrases: In the order of the caption, none of them inside another.
    """

    place: int
    image: str
    text: str
    phrases: tuple[Phrase, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class PolygonMasks(LazyMasks):
    """The mask of an image, drawn from polygons on demand."""

    polygons: tuple[Polygon, ...]
    height: int
    width: int

    def __len__(self) -> int:
        return 1

    def all(self) -> tuple[Rle | None, ...]:
        encoded = coco.frPyObjects(list(self.polygons), self.height, self.width)
        rle = coco.merge(encoded)
        return ({"size": [self.height, self.width], "counts": rle["counts"].decode("ascii")},)


def read_captions(file: Path, kind: str, faults: Faults) -> list[Caption]:
    """Return the captions with a phrase, in the order of the file.

    Args:
        kind: "groundings", "refs" or "sam_masks", as the three layouts above.

    Raises:
        ValueError: The file is missing, damaged, or not of this kind.
    """
    if not file.is_file():
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        )
    try:
        found = list(_READ[kind](file, faults))
    except (ijson.JSONError, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{file} is not JSON ({first_line}): download it again") from error
    return [caption for caption in found if caption.phrases]


def _read_groundings(file: Path, faults: Faults) -> Iterator[Caption]:
    for place, item in enumerate(items(file, "item")):
        with faults.noted():
            where = f"{file}: item {place}"
            text = _text(item, where)
            phrases = []
            for i, (name, found) in enumerate(value(item, "groundings", dict, where).items()):
                its = f"{where}: phrase {name!r:.60}"
                span = value(found, "token_positives", list, its)
                phrases.append(_phrase(span, text, f"{place}/{i}", its))
            image = value(item, "file_name", str, where)
            yield Caption(place, image, text, _in_order(phrases))


def _read_refs(file: Path, faults: Faults) -> Iterator[Caption]:
    for place, wrapped in enumerate(items(file, "item")):
        with faults.noted():
            where = f"{file}: item {place}"
            if not isinstance(wrapped, dict) or len(wrapped) != 1:
                raise ValueError(f"{where} is {wrapped!r:.60}, not an object with one key")
            item = next(iter(wrapped.values()))
            # The sentences of RefCOCOg are found in it whatever their case.
            text = _text(item, where).lower()
            phrases = []
            for i, ref in enumerate(value(item, "refs", list, where)):
                its = f"{where}: reference {i}"
                start = text.find(value(ref, "sentence", str, its).lower())
                polygons = tuple(value(ref, "segmentation", list, its))
                if start >= 0 and ref["sentence"] and polygons:
                    stop = start + len(ref["sentence"])
                    phrases.append(Phrase(start, stop, polygons=polygons))
            image = value(item, "img_file_name", str, where)
            yield Caption(place, image, text, _in_order(phrases))


def _read_sam_masks(file: Path, faults: Faults) -> Iterator[Caption]:
    phrases: dict[Any, list[Any]] = {}
    for annotation in items(file, "annotations.item"):
        with faults.noted():
            phrases.setdefault(value(annotation, "image_id", int, str(file)), []).append(annotation)
    for place, image in enumerate(items(file, "images.item")):
        with faults.noted():
            where = f"{file}: image {place}"
            text: str = value(image, "caption", str, where)
            found = []
            for annotation in phrases.get(value(image, "id", int, where), []):
                its = f"{where}: annotation {annotation.get('id')!r:.20}"
                if _is_usable(annotation, image, its):
                    span = value(annotation, "tokens_positive", list, its)[:1]
                    key = str(value(annotation, "id", int, its))
                    found.append(_phrase(span[0] if span else [], text, key, its))
            name = value(image, "file_name", str, where)
            yield Caption(place, name, text, _in_order(found))


_READ = {"groundings": _read_groundings, "refs": _read_refs, "sam_masks": _read_sam_masks}


def _text(item: Any, where: str) -> str:
    caption: str = value(item, "caption", str, where)
    return caption.strip('"').strip()


def _phrase(span: Any, text: str, key: str, where: str) -> Phrase:
    is_span = isinstance(span, list) and len(span) == 2 and all(type(x) is int for x in span)
    if not is_span or not 0 <= span[0] < span[1] <= len(text):
        raise ValueError(
            f"{where}: its position is {span!r:.60}, not a part of a caption of {len(text)} letters"
        )
    return Phrase(span[0], span[1], key)


def _is_usable(annotation: Any, image: Any, where: str) -> bool:
    """Return False for the annotations that the published reader leaves out."""
    if annotation.get("ignore"):
        return False
    numbers = value(annotation, "bbox", list, where)
    if len(numbers) != 4 or not all(type(x) in (int, float) for x in numbers):
        raise ValueError(f'{where}: "bbox" is {numbers!r:.60}, not [x, y, width, height]')
    x, y, width, height = numbers
    inner_width = min(x + width, value(image, "width", int, where)) - max(x, 0)
    inner_height = min(y + height, value(image, "height", int, where)) - max(y, 0)
    area = value(annotation, "area", (int, float), where)
    return area > 0 and min(width, height) >= 1 and min(inner_width, inner_height) > 0


def _in_order(phrases: list[Phrase]) -> tuple[Phrase, ...]:
    """Return phrases as they are read, without those that begin inside the one before."""
    ordered: list[Phrase] = []
    for phrase in sorted(phrases, key=lambda phrase: phrase.start):
        if not ordered or phrase.start >= ordered[-1].stop:
            ordered.append(phrase)
    return tuple(ordered)
