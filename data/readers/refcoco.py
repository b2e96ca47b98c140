"""Read refCOCO, refCOCO+ and refCOCOg in the format of REFER: images, each a video of one frame.

    <root>/refs(unc).p        pickle
        [{"ref_id", "ann_id", "image_id", "split", "sentences": [{"sent_id", "sent"}]}]
    <root>/instances.json     COCO: images and polygons
    COCO's train2014 images   in one of
        <root>/../images/mscoco/images/train2014 (REFER's place)
        <root>/../images/train2014, <root>/../train2014, <root>/train2014

`root` is the folder of one data set (refcoco, refcoco+, refcocog). A pickle can run code. This one
is read once, by a reader of plain data alone, and kept as JSON beside it ("refs(unc).p.json").
`split` is val, testA, testB, test (both, or refcocog's own) or train. The partition of the data set
is "unc" or "umd", or the one before a slash ("google/val"). Every sentence is a sample; `uid` is
"<image>/<sent_id>".
"""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

from core.types import Sample, Video
from data.bounds import MAX_DEPTH
from data.derived import derived_places, writable_place, writing
from data.fields import Faults, load_json, read_whole, value
from data.masks.stores import ListedFrames, RleStore

PARTITIONS = ("unc", "umd", "google", "berkeley")
IMAGES = ("../images/mscoco/images/train2014", "../images/train2014", "../train2014", "train2014")


# Characters of the content of a pickle for each of its bytes, and for small ones: a text of ten
# characters takes two bytes when it comes again.
GROWTH = 16
SMALL = 1 << 20


class PlainUnpickler(pickle._Unpickler):
    """Unpickler for lists, dicts, texts and numbers. It imports nothing, so nothing can run.

    The one in C would reserve memory for any index that a damaged file names.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    # It reserves what the file only announces.
    del dispatch[pickle.BYTEARRAY8[0]]

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}: not plain data, so it is not read"
        )


def read_refcoco(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all sentences of a split in the order of the file."""
    root = Path(root)
    faults = faults or Faults()
    partition, _, part = split.rpartition("/")
    wanted = ("test", "testA", "testB") if part == "test" else (part,)
    file = _refs_file(root, partition)
    refs = references(file)
    store = RleStore(root / "instances.json", "instances")
    images = _images_folder(root)
    present = set(os.listdir(images))

    samples: list[Sample] = []
    splits: dict[str, None] = {}
    for i, ref in enumerate(refs):
        where = f"{file}: reference {i}"
        with faults.noted():
            its_split = value(ref, "split", str, where)
            splits[its_split] = None
            if its_split in wanted:
                samples += _read_reference(ref, where, images, present, store)
    if not splits.keys() & set(wanted):
        raise ValueError(f"{file}: no split {part!r}; it has {', '.join(splits) or 'none'}")
    return samples


def references(file: Path) -> list[Any]:
    """Return the content of the pickle from its JSON copy. Make the copy if it is missing or older.

    Raises:
        ValueError: The pickle is damaged, or holds anything but plain data.
    """
    for place in derived_places(file, ".json"):
        if place.is_file() and place.stat().st_mtime_ns >= file.stat().st_mtime_ns:
            copy: list[Any] = load_json(place, list)
            return copy
    try:
        data = read_whole(file)
        refs = PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
        check_growth(refs, SMALL + GROWTH * len(data))
        text = json.dumps(refs)
    # A damaged pickle raises almost anything.
    except Exception as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"{file} is not a list of references ({why}): download it again"
        ) from error
    with writing(writable_place(file, ".json")) as part:
        part.write_text(text)
    return refs


def check_growth(content: Any, most: int) -> None:
    """Refuse a list that is huge when it is written out: a pickle can name a part many times.

    Args:
        most: Values and characters together.

    Raises:
        ValueError: There are more, or one is inside too many others; or it is no list.
    """
    if not isinstance(content, list):
        raise ValueError(f"it is a {type(content).__name__}")
    waiting: list[tuple[Any, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        most -= len(parts)
        for part in parts:
            if isinstance(part, str):
                most -= len(part)
            if isinstance(part, (dict, list, tuple)):
                waiting.append((part, depth + 1))
        if most < 0 or depth > MAX_DEPTH:
            raise ValueError("it holds itself, or the same things again and again")


def _refs_file(root: Path, partition: str) -> Path:
    partitions: tuple[str, ...] = PARTITIONS
    if partition:
        partitions = (partition,)
    for name in partitions:
        file = root / f"refs({name}).p"
        if file.is_file():
            return file
    found = sorted(path.name for path in root.glob("refs(*).p"))
    raise ValueError(
        f"{root}: no refs({partition or '...'}).p; there is: {', '.join(found) or 'none'}; "
        "data.root is the folder of one data set, as .../refcoco+"
    )


def _images_folder(root: Path) -> Path:
    for place in IMAGES:
        if (root / place).is_dir():
            return (root / place).resolve()
    raise ValueError(
        f"{root}: none of {', '.join(IMAGES)} is there: link COCO's train2014 images to one of them"
    )


def _read_reference(
    ref: Any, where: str, images: Path, present: set[str], store: RleStore
) -> list[Sample]:
    """Return a sample for each sentence of a reference.

    Args:
        present: Names of the files in `images`.
    """
    stem = f"COCO_train2014_{value(ref, 'image_id', int, where):012d}"
    if f"{stem}.jpg" not in present:
        raise ValueError(
            f'{images / stem}.jpg is missing: {where}: "image_id" names it: download train2014 '
            "again"
        )
    anno = str(value(ref, "ann_id", int, where))
    target = store.target(ListedFrames(stem, (stem,), None), anno, where)
    size = store.size(anno)
    if size is None:
        raise ValueError(f"{store.file}: key {anno!r} has no polygon, but {where} refers to it")

    height, width = size
    video = Video(stem, str(images), (stem,), height, width)
    samples = []
    for sentence in value(ref, "sentences", list, where):
        uid = f"{stem}/{value(sentence, 'sent_id', int, where)}"
        query = value(sentence, "sent", str, where)
        samples.append(Sample(uid, video, query, (target,)))
    return samples
