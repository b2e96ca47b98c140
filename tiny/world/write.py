"""Synthetic videos on disk in MeViS' own format, so that the ordinary reader reads them.

    <root>/<split>/JPEGImages/<video>/00000.jpg ...     (or Videos/<video>.mp4)
    <root>/<split>/meta_expressions.json  {"videos": {video: {"vid_id", "frames", "expressions"}}}
    <root>/<split>/mask_dict.json         {anno_id: [COCO run-length encoding or null, one a frame]}

Beyond MeViS, an expression has "kind", "thought", "names" and "description", and a video lists all
its objects in "anno_id".
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from core.masks import encode_frames
from core.types import Rle
from tiny.world.queries import Query, description, pick_query, queries
from tiny.world.scene import LENGTHS, SHORT, Length, Scene, random_scene


class Split(NamedTuple):
    """A split of the embedded data set. Splits draw from different seeds."""

    name: str
    num_videos: int
    expressions_per_video: int
    mp4: bool = False


SPLITS = (
    Split("train", 900, 3),
    Split("valid", 110, 2),
    Split("test", 150, 2),
    Split("mp4", 6, 2, mp4=True),
)
# Four times the frames.
LONG_SPLITS = (
    Split("train", 300, 3),
    Split("valid", 30, 2),
    Split("test", 100, 2),
)


def write_dataset(root: Path, seed: int = 0, length: str = "short") -> None:
    """Make the missing splits of the embedded data set.

    Short videos take about 170 MB, long ones 220 MB.

    Args:
        length: `data.length`, a key of LENGTHS.

    Raises:
        ValueError: A split is there already, with videos of another length.
    """
    splits = LONG_SPLITS if length == "long" else SPLITS
    for name, num_videos, expressions_per_video, mp4 in splits:
        folder = Path(root) / name
        if folder.exists():
            _check_length(folder, length)
        else:
            write_split(root, name, seed, num_videos, expressions_per_video, mp4, LENGTHS[length])


def _check_length(folder: Path, length: str) -> None:
    file = folder / "meta_expressions.json"
    if not file.is_file():
        return

    wanted = LENGTHS[length].num_frames
    for video in json.loads(file.read_text())["videos"].values():
        found = len(video["frames"])
        if found != wanted:
            raise ValueError(
                f"{folder} has videos of {found} frames; data.length={length} makes some of "
                f"{wanted}: give them a data.root of their own"
            )


def write_split(
    root: Path,
    split: str,
    seed: int,
    num_videos: int,
    expressions_per_video: int,
    mp4: bool = False,
    length: Length = SHORT,
) -> None:
    """Make <root>/<split>. Equal arguments make equal bytes; no two splits share a scene's seed.

    The folder gets its name only when it is complete.

    Raises:
        ValueError: The folder exists already.
    """
    folder = Path(root) / split
    if folder.exists():
        raise ValueError(
            f"{folder} exists already; remove it, or choose another data.root or split"
        )

    part = folder.with_name(f".{split}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)

    videos: dict[str, Any] = {}
    masks: dict[str, list[Rle | None]] = {}
    seeds = np.random.SeedSequence([seed, *split.encode()]).spawn(num_videos)
    for number, video_seed in enumerate(seeds):
        rng = np.random.default_rng(video_seed)
        uid = f"{split}{number:05d}"
        scene = random_scene(rng, length)
        _write_frames(part, uid, scene, mp4)

        anno_ids = [len(masks) + i for i in range(len(scene.things))]
        for index, anno_id in enumerate(anno_ids):
            masks[str(anno_id)] = _masks_of(scene, index)
        videos[uid] = {
            "vid_id": number,
            "frames": _frame_names(scene),
            "anno_id": anno_ids,
            "expressions": _expressions(rng, scene, expressions_per_video, anno_ids),
        }

    (part / "meta_expressions.json").write_text(json.dumps({"videos": videos}, indent=1))
    (part / "mask_dict.json").write_text(json.dumps(masks))
    part.rename(folder)


def _expressions(
    rng: np.random.Generator, scene: Scene, count: int, anno_ids: list[int]
) -> dict[str, Any]:
    """Draw different queries and return them in MeViS' form, by number."""
    options = queries(scene)
    expressions = {}
    for number in range(count):
        query = pick_query(rng, options)
        options = [other for other in options if other.text != query.text]
        expressions[str(number)] = _expression(scene, query, anno_ids)
    return expressions


def _expression(scene: Scene, query: Query, anno_ids: list[int]) -> dict[str, Any]:
    return {
        "exp": query.text,
        "obj_id": list(query.objects),
        "anno_id": [anno_ids[i] for i in query.objects],
        "kind": query.kind,
        "thought": query.thought,
        "names": [scene.things[i].name for i in query.objects],
        "description": description(scene, query),
    }


def _masks_of(scene: Scene, index: int) -> list[Rle | None]:
    """Return one thing's mask in each frame; None if fewer than MIN_AREA pixels are visible."""
    rles_F = encode_frames(scene.owner_FHW == index)
    areas_F = scene.areas_OF[index]
    return [rle if area else None for rle, area in zip(rles_F, areas_F, strict=True)]


def _frame_names(scene: Scene) -> list[str]:
    return [f"{i:05d}" for i in range(len(scene.frames_FHWC))]


def _write_frames(part: Path, uid: str, scene: Scene, mp4: bool) -> None:
    if mp4:
        (part / "Videos").mkdir(exist_ok=True)
        _write_video(part / "Videos" / f"{uid}.mp4", scene.frames_FHWC)
        return

    folder = part / "JPEGImages" / uid
    folder.mkdir(parents=True)
    for name, frame_HWC in zip(_frame_names(scene), scene.frames_FHWC, strict=True):
        Image.fromarray(frame_HWC).save(folder / f"{name}.jpg", quality=95, subsampling=0)


def _write_video(path: Path, frames_FHWC: np.ndarray) -> None:
    """Write lossless RGB: the rounding of a colour conversion would vary between machines."""
    with av.open(str(path), "w") as container:
        options = {"qp": "0", "preset": "fast", "threads": "1"}
        stream = container.add_stream("libx264rgb", rate=8, options=options)
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame_HWC in frames_FHWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
