"""Synthetic videos on disk, in MeViS' own format, so that the ordinary reader reads them.

    <root>/<split>/JPEGImages/<video>/00000.jpg ...     (or Videos/<video>.mp4)
    <root>/<split>/meta_expressions.json                {"videos": {video: {"vid_id", "frames", "expressions"}}}
    <root>/<split>/mask_dict.json                       {anno_id: [COCO run-length encoding or null, one a frame]}

Beyond MeViS, an expression carries "kind", "thought", "names" and "description", and a video lists all its objects in
"anno_id". Knows no system and no model.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from core.masks import encode_frames
from core.types import Rle
from tiny.world.queries import Query, description, pick_query, queries
from tiny.world.scene import LENGTHS, SHORT, Length, Scene, scene

# (split, videos, expressions of each, as mp4): the embedded data set. Splits draw from different seeds.
SPLITS = (
    ("train", 900, 3, False),
    ("valid", 110, 2, False),
    ("test", 150, 2, False),
    ("mp4", 6, 2, True),
)
LONG_SPLITS = (
    ("train", 300, 3, False),
    ("valid", 30, 2, False),
    ("test", 100, 2, False),
)  # four times the frames


def write_dataset(root: Path, seed: int = 0, length: str = "short") -> None:
    """Makes those splits of the embedded data set that are not there yet, of videos of this length (`data.length`).

    Short ones take about 170 MB, long ones 220 MB.

    Raises:
        ValueError: a split is there already, and its videos are of another length.
    """
    for split, num_videos, expressions, mp4 in LONG_SPLITS if length == "long" else SPLITS:
        if (Path(root) / split).exists():
            _check_length(Path(root) / split, length)
        else:
            write_split(root, split, seed, num_videos, expressions, mp4, LENGTHS[length])


def _check_length(folder: Path, length: str) -> None:
    file = folder / "meta_expressions.json"
    wanted = LENGTHS[length].num_frames
    videos = json.loads(file.read_text())["videos"].values() if file.is_file() else ()
    for video in videos:
        if len(video["frames"]) != wanted:
            raise ValueError(
                f"{folder} has videos of {len(video['frames'])} frames; data.length={length} makes some of {wanted}: "
                "give them a data.root of their own"
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
    """Makes <root>/<split>; the same arguments make the same bytes, and no two splits share a scene's seed.

    The folder appears under its name only when it is complete.

    Raises:
        ValueError: it is there already.
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
        made = scene(rng, length)
        _write_frames(part, uid, made, mp4)
        first_anno = len(masks)
        masks.update({str(first_anno + i): _masks(made, i) for i in range(len(made.things))})
        videos[uid] = {
            "vid_id": number,
            "frames": _names(made),
            "anno_id": [first_anno + i for i in range(len(made.things))],
            "expressions": _expressions(rng, made, expressions_per_video, first_anno),
        }
    (part / "meta_expressions.json").write_text(json.dumps({"videos": videos}, indent=1))
    (part / "mask_dict.json").write_text(json.dumps(masks))
    part.rename(folder)


def _expressions(
    rng: np.random.Generator, made: Scene, count: int, first_anno: int
) -> dict[str, Any]:
    options = queries(made)
    chosen = list[Query]()
    while len(chosen) < count:
        query = pick_query(rng, options)
        chosen.append(query)
        options = [other for other in options if other.text != query.text]
    return {str(i): _expression(made, query, first_anno) for i, query in enumerate(chosen)}


def _expression(made: Scene, query: Query, first_anno: int) -> dict[str, Any]:
    return {
        "exp": query.text,
        "obj_id": list(query.objects),
        "anno_id": [first_anno + i for i in query.objects],
        "kind": query.kind,
        "thought": query.thought,
        "names": [made.things[i].name for i in query.objects],
        "description": description(made, query),
    }


def _masks(made: Scene, index: int) -> list[Rle | None]:
    """Of one thing, one a frame; None where less than MIN_AREA pixels of it can be seen."""
    rles_F = encode_frames(made.owner_FHW == index)
    return [rle if area else None for rle, area in zip(rles_F, made.areas_OF[index], strict=True)]


def _names(made: Scene) -> list[str]:
    return [f"{i:05d}" for i in range(len(made.frames_FHWC))]


def _write_frames(part: Path, uid: str, made: Scene, mp4: bool) -> None:
    if mp4:
        (part / "Videos").mkdir(exist_ok=True)
        _write_video(part / "Videos" / f"{uid}.mp4", made.frames_FHWC)
        return
    folder = part / "JPEGImages" / uid
    folder.mkdir(parents=True)
    for name, frame_HWC in zip(_names(made), made.frames_FHWC, strict=True):
        Image.fromarray(frame_HWC).save(folder / f"{name}.jpg", quality=95, subsampling=0)


def _write_video(path: Path, frames_FHWC: np.ndarray) -> None:
    """Lossless RGB: the pixels survive, and no colour conversion (whose rounding varies) touches them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264rgb", rate=8, options={"qp": "0", "preset": "fast", "threads": "1"}
        )
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame_HWC in frames_FHWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
