"""Results of `ray_jobs.segment` for one video: what is said of it, and its files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema import Config
from core.files import jsonable, write_atomic
from core.masks import decode
from core.printable import printable
from core.segmenters import KINDS
from core.types import Episode, Rle, Sample, Video
from data.frames.probing import varying_times
from ray_jobs.record.overlay import (
    Rles,
    Timing,
    keyframe_pictures,
    keyframes_of,
    overlay_video,
)
from ray_jobs.record.predictions import digest_of, influences
from ray_jobs.record.sound import has_sound

# Is written last and removed first: where it is, the other files are whole.
ANSWER = "answer.json"
# Files of a run in the folder of its results.
RESULTS = (
    ANSWER,
    "overlay.mp4",
    "keyframe.png",
    "keyframe_*.png",
    "masks.json",
    "masks/*.png",
    "reasoning.txt",
)


@dataclass(frozen=True)
class Style:
    """What a person asked for beside the masks.

    Attributes:
        rate: The video's frames a second; None for images.
        fps: Frames a second of the overlay; None for the video's own times.
        png: Write each frame's mask as a PNG too.
        audio: Keep the sound in the overlay.
    """

    rate: Fraction | None = None
    fps: Fraction | None = None
    png: bool = False
    audio: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what was asked for; the rate is the video's."""
        fps = None if self.fps is None else str(self.fps)
        return {"--fps": fps, "--png": self.png, "--audio": self.audio}


@dataclass(frozen=True)
class Maker:
    """What makes results of any video.

    Attributes:
        cfg: The configuration.
        made_with: All its settings and contents that decide on a result.
    """

    cfg: Config
    made_with: Mapping[str, Any]

    @classmethod
    def of(cls, cfg: Config) -> Maker:
        """Look at the policy as it is now, before anybody trains it further."""
        return cls(cfg, jsonable(influences(cfg)))


def timing_of(video: Video, style: Style) -> Timing:
    """Return when the frames of an overlay are shown: as in the video, or at a rate of its own."""
    if style.fps is not None:
        return Timing(style.fps)
    # An image, or a folder of images, has no rate of its own.
    if style.rate is None:
        return Timing()
    sound = video.path if style.audio and has_sound(video.path) else ""
    return Timing(style.rate, varying_times(video, style.rate), sound)


def folder_name(video: Video) -> str:
    """Return the name of a video as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", video.uid)


def remove_results(out: Path) -> None:
    """Remove the results of the run before, and nothing else, so that a folder holds one run."""
    for pattern in RESULTS:
        for file in out.glob(pattern):
            file.unlink()
    with suppress(OSError):
        # Someone's own files beside the masks keep the folder.
        (out / "masks").rmdir()


def write_results(
    out: Path,
    maker: Maker,
    sample: Sample,
    episode: Episode,
    masks_F: tuple[Rle | None, ...],
    style: Style,
    objects_OF: Sequence[Rles] = (),
) -> dict[str, Path]:
    """Write everything into `out`; return the files by their content.

    Args:
        objects_OF: The masks of each object, where the answer has several.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_results(out)
    files = {}
    video = sample.video
    overlay = out / "overlay.mp4"
    timing = timing_of(video, style)
    overlay_video(overlay, sample, episode, masks_F, None, timing, objects_OF)
    files["overlay"] = overlay

    files |= write_keyframes(out, sample, episode, masks_F, objects_OF)
    masks = masks_content(video, masks_F, objects_OF)
    files["masks"] = write_text(out / "masks.json", json.dumps(masks))
    files["reasoning"] = write_text(out / "reasoning.txt", printable(dialogue(sample, episode)))
    if style.png:
        files["mask PNGs"] = write_pngs(out / "masks", sample, masks_F)
    found = answer(maker.cfg, sample, episode, masks_F) | identity_of(maker, video, style)
    files["answer"] = out / ANSWER
    write_atomic(files["answer"], json.dumps(found, indent=2) + "\n")
    return files


def masks_content(video: Video, masks_F: Rles, objects_OF: Sequence[Rles]) -> dict[str, Any]:
    """Return the contents of masks.json."""
    content: dict[str, Any] = {
        "video": video.path,
        "height": video.height,
        "width": video.width,
        "masks": masks_F,
    }
    if len(objects_OF) > 1:
        content["objects"] = objects_OF
    return content


def write_text(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def write_keyframes(
    out: Path, sample: Sample, episode: Episode, masks_F: Rles, objects_OF: Sequence[Rles]
) -> dict[str, Path]:
    """Write a picture of each keyframe; return the files by their content."""
    files = {}
    pictures = keyframe_pictures(sample, episode, masks_F, objects_OF)
    for frame, image_HWC in pictures.items():
        name = "keyframe" if len(pictures) == 1 else f"keyframe_{frame}"
        files[name] = out / f"{name}.png"
        Image.fromarray(image_HWC).save(files[name])
    return files


def write_pngs(folder: Path, sample: Sample, masks_F: Sequence[Rle | None]) -> Path:
    """Write the mask of each frame as a PNG, named as the frame; return the folder."""
    folder.mkdir(exist_ok=True)
    video = sample.video
    for name, rle in zip(video.frame_names, masks_F, strict=True):
        image = Image.new("L", (video.width, video.height))
        if rle is not None:
            image = Image.fromarray(decode(rle).astype("uint8") * 255)
        image.save(folder / f"{Path(name).stem}.png")
    return folder


def verdict(episode: Episode, masks_F: Sequence[Rle | None]) -> str:
    """Return the outcome in one line."""
    answered = episode.answer
    with_mask = [frame for frame, rle in enumerate(masks_F) if rle is not None]
    if not answered.prompts and not answered.segs:
        return (
            f"the policy gave no box or point ({episode.end.value}), so there is no mask: "
            "see reasoning.txt"
        )
    keyframes = ", ".join(str(frame) for frame in sorted(keyframes_of(episode)))
    if not with_mask and not answered.prompts:
        return f"keyframe {keyframes}, but the mask that the policy drew there is empty"
    if not with_mask:
        return f"keyframe {keyframes}, but the segmenter found nothing in the box"
    return (
        f"keyframe {keyframes}; masks on {len(with_mask)} of {len(masks_F)} frames "
        f"({with_mask[0]} to {with_mask[-1]})"
    )


def dialogue(sample: Sample, episode: Episode) -> str:
    """Return the dialogue as text for people."""
    lines = [f"sentence: {sample.query}", ""]
    for number, turn in enumerate(episode.turns, 1):
        frames = ", ".join(str(media.view.frame) for media in turn.media)
        lines.append(f"turn {number}, shown frames {frames or 'none'}:")
        lines.append(turn.text.strip() or "(nothing)")
        lines.append("")
    lines.append(f"end: {episode.end.value}")
    lines.append("")
    return "\n".join(lines)


def answer(
    cfg: Config, sample: Sample, episode: Episode, masks_F: Sequence[Rle | None]
) -> dict[str, Any]:
    """Return the contents of answer.json.

    Boxes and points are in pixels of the video, frames count from 0, spans are [start, stop).
    """
    found = {
        "end": episode.end.value,
        "prompts": [asdict(prompt) for prompt in episode.answer.prompts],
        "segs": [asdict(seg) for seg in episode.answer.segs],
        "facts": episode.answer.to_json(),
        "spans_with_mask": spans([rle is not None for rle in masks_F]),
    }
    return asked(cfg, sample) | found


def asked(cfg: Config, sample: Sample) -> dict[str, Any]:
    """Return the part of answer.json that is known beforehand."""
    video = sample.video
    segmenter: str = cfg.segmenter.kind
    # A kind with one file is named by it.
    if list(KINDS[cfg.segmenter.kind].files) == ["path"]:
        segmenter = cfg.segmenter.path
    return {
        "video": video.path,
        "frames": video.num_frames,
        "height": video.height,
        "width": video.width,
        "sentence": sample.query,
        "system": cfg.system.name,
        "policy": cfg.policy.path,
        "segmenter": segmenter,
    }


def identity_of(maker: Maker, video: Video, style: Style) -> dict[str, Any]:
    """Return the part of answer.json that tells whether it still holds."""
    return {
        "made_with": maker.made_with,
        "made_from": state_of(Path(video.path)),
        "style": style.to_json(),
    }


def state_of(video: Path) -> str:
    """Return a short name for the state of a video file or of a folder of images.

    Another video of the same name has another one. The files are not read.
    """
    files = [video]
    if video.is_dir():
        files = sorted(video.iterdir())
    states = []
    for file in files:
        stat = file.stat()
        states.append(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}")
    return digest_of(states)


def is_answered(folder: Path, maker: Maker, sample: Sample, style: Style) -> bool:
    """Return whether a folder holds the results that would be made now.

    A picture of each mask may be there without being asked for.
    """
    held = _held(folder)
    now = asked(maker.cfg, sample) | identity_of(maker, sample.video, style)
    styles = held.get("style")
    if not style.png and isinstance(styles, dict):
        held["style"] = styles | {"--png": False}
    return all(held.get(name) == value for name, value in now.items())


def video_in(folder: Path) -> str:
    """Return the path of the video whose results a folder holds; "" without any."""
    return str(_held(folder).get("video", ""))


def _held(folder: Path) -> dict[str, Any]:
    """Return what is in a folder's answer.json; nothing if it is missing or broken."""
    try:
        held = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def spans(with_mask_F: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the runs of True as half-open spans."""
    # Padded, so that a run at either end of the video has two edges as well.
    padded = [False, *with_mask_F, False]
    edges = np.flatnonzero(np.diff(padded)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
