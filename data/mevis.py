"""Reads data sets in the format of MeViS: one split is one folder.

    <root>/<split>/meta_expressions.json   {"videos": {video: {"frames": [name, ..], "expressions": {id: {"exp", ..}}}}}
    <root>/<split>/mask_dict.json          {annotation id: [COCO run-length encoding or null, one for each frame]}
    <root>/<split>/JPEGImages/<video>/     or Videos/<video>.mp4

An expression names its objects in "anno_id": none, one or several; without it, the ground truth is empty or not public
(then mask_dict.json may be missing too). No pixel is decoded here: masks stay encoded, and expressions that name the
same object share them. Whatever is wrong with the files is one ValueError with file, key and remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.types import Rle, Sample, Target, Video
from data.frames import frame_size

EXPRESSIONS, MASKS = "meta_expressions.json", "mask_dict.json"
KNOWN = {"exp", "obj_id", "anno_id", "kind"}  # of an expression; all else becomes notes


def read(root: Path, split: str) -> list[Sample]:
    """All expressions of a split, in the order of the file; `uid` is "<video>/<expression id>"."""
    folder = Path(root) / split
    if not folder.is_dir():
        found = sorted(path.parent.name for path in Path(root).glob(f"*/{EXPRESSIONS}"))
        raise ValueError(f"{folder}: no such folder; splits under {root}: {', '.join(found) or 'none'} (data.root)")
    file = folder / EXPRESSIONS
    videos = _key(_load_json(file), "videos", dict, str(file))
    store = _MaskStore(folder / MASKS)
    return [sample for uid, meta in videos.items() for sample in _read_video(folder, uid, meta, store)]


def video_objects(root: Path, split: str) -> dict[str, tuple[Target, ...]]:
    """Every annotated object of each video: those of the video's own "anno_id" (the synthetic data set lists them),
    or else those that its expressions name."""
    folder = Path(root) / split
    videos = _key(_load_json(folder / EXPRESSIONS), "videos", dict, str(folder / EXPRESSIONS))
    store = _MaskStore(folder / MASKS)
    found: dict[str, tuple[Target, ...]] = {}
    for uid, meta in videos.items():
        ids = _anno_ids(meta) or [i for expression in meta["expressions"].values() for i in _anno_ids(expression)]
        where = f"{folder / EXPRESSIONS}: video {uid!r}"
        found[uid] = tuple(store.target(anno, len(meta["frames"]), where) for anno in dict.fromkeys(ids))
    return found


def index(samples: Iterable[Sample]) -> dict[str, Sample]:
    """Samples by their uid."""
    by_uid: dict[str, Sample] = {}
    for sample in samples:
        if sample.uid in by_uid:
            raise ValueError(f"two samples are called {sample.uid!r}: rename a video or an expression of the data set")
        by_uid[sample.uid] = sample
    return by_uid


def _read_video(folder: Path, uid: str, meta: Any, store: _MaskStore) -> list[Sample]:
    where = f"{folder / EXPRESSIONS}: video {uid!r}"
    names = tuple(str(name) for name in _key(meta, "frames", list, where))
    if not names:
        raise ValueError(f'{where}: "frames" is empty: list its frames, or take the video out')
    path = _video_path(folder, uid)
    expressions = _key(meta, "expressions", dict, where)
    targets = {
        key: tuple(store.target(anno, len(names), f"{where}: expression {key!r}") for anno in _anno_ids(value))
        for key, value in expressions.items()
    }
    height, width = _common_size(targets, where) or frame_size(path, names)
    video = Video(uid, path, names, height, width)
    return [
        _sample(video, key, value, targets[key], f"{where}: expression {key!r}") for key, value in expressions.items()
    ]


def _sample(video: Video, key: str, value: Any, targets: tuple[Target, ...], where: str) -> Sample:
    query = _key(value, "exp", str, where)
    notes = {name: extra for name, extra in value.items() if name not in KNOWN}
    return Sample(f"{video.uid}/{key}", video, query, targets, str(value.get("kind", "")), notes)


def _video_path(folder: Path, uid: str) -> str:
    images, file = folder / "JPEGImages" / uid, folder / "Videos" / f"{uid}.mp4"
    for path in (images, file):
        if path.exists():
            return str(path)
    raise ValueError(
        f"{folder / EXPRESSIONS}: video {uid!r} is listed, but there is neither {images}/ nor {file}: "
        "download its frames, or take it out of the file"
    )


def _anno_ids(expression: Any) -> list[str]:
    """As text, in order, each once: data sets write one number, a list of numbers, or texts."""
    ids = expression.get("anno_id") if isinstance(expression, dict) else None
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    return list(dict.fromkeys(str(anno) for anno in ids))


def _common_size(targets: dict[str, tuple[Target, ...]], where: str) -> tuple[int, int] | None:
    """(height, width) of all masks of a video; None if it has none."""
    first: tuple[str, tuple[int, int]] | None = None
    for target in {target.uid: target for several in targets.values() for target in several}.values():
        for size in {(rle["size"][0], rle["size"][1]) for rle in target.masks_F if rle is not None}:
            first = first or (target.uid, size)
            if size != first[1]:
                raise ValueError(
                    f"{where}: masks of annotation {target.uid!r} in {MASKS} are {size[0]} x {size[1]} and those of "
                    f"{first[0]!r} {first[1][0]} x {first[1][1]} (height x width): all masks of a video have one size"
                )
    return first[1] if first else None


@dataclass
class _MaskStore:
    """mask_dict.json, read when the first mask is asked for."""

    file: Path
    _masks: dict[str, Any] | None = None
    _targets: dict[str, Target] = field(default_factory=dict)  # shared between expressions

    def target(self, anno: str, num_frames: int, where: str) -> Target:
        if self._masks is None:
            if not self.file.is_file():
                raise ValueError(f"{where} names annotation {anno!r}, but {self.file} is missing: download it too")
            self._masks = _load_json(self.file)
        if anno not in self._targets:
            if anno not in self._masks:
                raise ValueError(f"{where} names annotation {anno!r}, which {self.file} does not hold: {_RELEASE}")
            self._targets[anno] = Target(anno, _masks_of(self._masks.pop(anno), f"{self.file}: key {anno!r}"))
        target = self._targets[anno]
        if len(target.masks_F) != num_frames:
            raise ValueError(
                f"{self.file}: key {anno!r} holds {len(target.masks_F)} masks, but {where} has {num_frames} frames: "
                f"one mask or null is needed for each frame; {_RELEASE}"
            )
        return target


_RELEASE = "take both files from one release of the data set"


def _masks_of(masks: Any, where: str) -> tuple[Rle | None, ...]:
    if not isinstance(masks, list):
        raise ValueError(f"{where} is a {type(masks).__name__}, not a list with one mask or null for each frame")
    return tuple(None if mask is None else _rle(mask, f"{where}: frame {i}") for i, mask in enumerate(masks))


def _rle(mask: Any, where: str) -> Rle:
    size, counts = _key(mask, "size", list, where), _key(mask, "counts", str, where)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f'{where}: "size" is {size}, not [height, width]')
    return {"size": size, "counts": counts}


def _key(mapping: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(mapping, dict) or key not in mapping:
        raise ValueError(f'{where}: key "{key}" is missing; the file is not in the format of MeViS, or cut short')
    if not isinstance(mapping[key], kind):
        raise ValueError(f'{where}: "{key}" is {mapping[key]!r:.60}, not a {kind.__name__}')
    return mapping[key]


def _load_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is missing: is the data set complete, and its root right (data.root)?")
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not an object: it is not in the format of MeViS")
    return content
