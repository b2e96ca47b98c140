"""Segment the object of a sentence in your own video: masks, an overlay video, and the reasoning.

    python -m ray_jobs.segment VIDEO "the first dog to jump" [PRESET] [key=value ...]

Plays one greedy episode with the actors of training and evaluation. Needs no data set.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.load import help_text, presets, resolve, validate
from configs.load import load as load_config
from configs.schema import Config
from core.masks import decode
from core.printable import printable
from core.segmenters import KINDS
from core.types import Episode, Rle, Sample, Video
from data.bounds import allow_pixels
from data.frames.probing import probe_with_rate
from ray_jobs.driver.entry import run_job
from ray_jobs.record.overlay import FPS, keyframe_pictures, keyframes_of, overlay_video
from ray_jobs.record.progress import Progress

# The embedded default.
PRESET = "revseg_tiny"

# Files of a run in the folder of its results.
RESULTS = (
    "overlay.mp4",
    "keyframe.png",
    "keyframe_*.png",
    "masks.json",
    "masks/*.png",
    "answer.json",
    "reasoning.txt",
)


@dataclass(frozen=True)
class Written:
    """The result of `segment`.

    Attributes:
        episode: The played episode.
        masks_F: The mask of each frame; None for a frame without the object.
        files: The written files, by their content.
    """

    episode: Episode
    masks_F: tuple[Rle | None, ...]
    files: dict[str, Path]


def main(argv: Sequence[str]) -> None:
    given = parser().parse_intermixed_args(argv)
    cfg = settings(given.settings)
    out = None
    if given.out:
        out = Path(given.out)
    segment(given.video, given.sentence, cfg, out, png=given.png, fps=given.fps)


def parser() -> argparse.ArgumentParser:
    text = help_text()
    keys = text[text.index("presets:") :]
    found = argparse.ArgumentParser(
        "python -m ray_jobs.segment",
        description="Segment the object of a sentence in a video of your own.",
        epilog=keys,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("video", help="a video file, an image, or a folder of images")
    found.add_argument("sentence", help='what to segment, e.g. "the dog that jumps first"')
    found.add_argument(
        "settings",
        nargs="*",
        metavar="PRESET | key=value",
        help=(
            f"a preset or YAML file (default {PRESET}), then settings, "
            "e.g. policy.path=FOLDER segmenter.path=FILE"
        ),
    )
    found.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the results (default: runs/segment/<name of the video>)",
    )
    found.add_argument(
        "--png",
        action="store_true",
        help="write each frame's mask as a PNG too (255 on the object)",
    )
    found.add_argument(
        "--fps",
        type=Fraction,
        help=f"frame rate of the overlay (default: the video's own; {FPS} for images)",
    )
    return found


def settings(words: Sequence[str]) -> Config:
    """Return the configuration for one video: one actor of a kind, no learner, no data set.

    Raises:
        ValueError: Two presets, or as `configs.load`.
    """
    named = []
    assignments = []
    for word in words:
        if word.startswith("preset="):
            named.append(word.removeprefix("preset="))
        elif "=" in word:
            assignments.append(word)
        else:
            named.append(word)
    if len(named) > 1:
        raise ValueError(
            f"two presets, {named[0]!r} and {named[1]!r}; give one of {', '.join(presets())}"
        )

    preset = named[0] if named else PRESET
    cfg = load_config([preset, *assignments])
    cfg.data = replace(cfg.data, root=".", synthetic=False, sets=[])
    cfg.rollout = replace(cfg.rollout, workers=1)
    cfg.segmenter = replace(cfg.segmenter, workers=1)
    cfg.cluster = replace(cfg.cluster, weight_backend="object_store")
    validate(cfg)
    policy = resolve(cfg.policy.path)
    if policy.is_dir():
        cfg.policy = replace(cfg.policy, path=str(policy))
    return cfg


def segment(
    path: str,
    sentence: str,
    cfg: Config,
    out: Path | None = None,
    *,
    png: bool = False,
    fps: Fraction | None = None,
) -> Written:
    """Play one episode, segment its answer, and write the results.

    Args:
        path: A video file, an image, or a folder of images.
        sentence: A description of the object.
        cfg: As `settings` returns it.
        out: Folder of the results; by default <runs>/segment/<name of the video>.
        png: Write each frame's mask as a PNG too.
        fps: Frame rate of the overlay; by default the video's own.

    Raises:
        ValueError: Not a video, an empty sentence, or impossible settings; in one line, before any
            engine starts.
    """
    allow_pixels(cfg.data.max_pixels)
    video, rate = probe_with_rate(path)
    check_words(sentence, fps)
    if out is None:
        out = folder_of(cfg, video)
    sample = Sample(f"{video.uid}/0", video, sentence.strip(), ())

    title = f"{cfg.system.name} · {cfg.policy.path} · {video.path}: {size_of(video, rate)}"
    with Progress.open(0, title) as progress:
        # These imports take seconds; a wrong file is reported before them.
        with progress.phase("load"):
            from actors.setup import make_system
            from ray_jobs.driver.one_episode import one_episode
            from ray_jobs.driver.preflight import check_prompts
        counted = check_prompts(cfg, make_system(cfg), [[sample]])
        progress.note(str(counted))
        episode, masks_F = one_episode(cfg, sample, progress)

        with progress.phase("write"):
            files = write_results(out, cfg, sample, episode, masks_F, fps or rate, png)
        for name, file in files.items():
            progress.note(f"{name + ':':<11} {file}")
        progress.note(verdict(episode, masks_F))
    return Written(episode, masks_F, files)


def check_words(sentence: str, fps: Fraction | None) -> None:
    """Refuse an empty sentence, and a frame rate that is not above 0."""
    if not sentence.strip():
        raise ValueError("the sentence is empty: say what to segment")
    if fps is not None and fps <= 0:
        raise ValueError(f"--fps {fps}: must be above 0")


def folder_of(cfg: Config, video: Video) -> Path:
    """Return the default folder of the results: one for each video, by its name and a number."""
    name = re.sub(r"[^\w.-]+", "_", video.uid)
    folder = Path(cfg.runs) / "segment" / name
    number = 2
    while _video_in(folder) not in ("", video.path):
        folder = folder.with_name(f"{name}_{number}")
        number += 1
    return folder


def _video_in(folder: Path) -> str:
    """Return the path of the video whose results a folder holds; "" without any."""
    try:
        held = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return str(held["video"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remove_results(out: Path) -> None:
    """Remove the results of the run before, and nothing else, so that a folder holds one run."""
    for pattern in RESULTS:
        for file in out.glob(pattern):
            file.unlink()
    with suppress(OSError):
        # Someone's own files beside the masks keep the folder.
        (out / "masks").rmdir()


def size_of(video: Video, rate: Fraction | None) -> str:
    """Return number, size and rate of the frames in words."""
    text = f"{video.num_frames} frames of {video.width} x {video.height}"
    if rate:
        text += f", {float(rate):g}/s"
    return text


def write_results(
    out: Path,
    cfg: Config,
    sample: Sample,
    episode: Episode,
    masks_F: tuple[Rle | None, ...],
    fps: Fraction | None,
    png: bool,
) -> dict[str, Path]:
    """Write everything into `out`; return the files by their content."""
    out.mkdir(parents=True, exist_ok=True)
    remove_results(out)
    files = {}
    # An image, or a folder of images, has no rate of its own.
    rate = fps or Fraction(FPS)
    overlay = out / "overlay.mp4"
    files["overlay"] = overlay_video(overlay, sample, episode, masks_F, None, rate)

    files |= write_keyframes(out, sample, episode, masks_F)
    video = sample.video
    masks = {
        "video": video.path,
        "height": video.height,
        "width": video.width,
        "masks": masks_F,
    }
    files["masks"] = write_text(out / "masks.json", json.dumps(masks))
    found = json.dumps(answer(cfg, sample, episode, masks_F), indent=2)
    files["answer"] = write_text(out / "answer.json", found + "\n")
    files["reasoning"] = write_text(out / "reasoning.txt", printable(dialogue(sample, episode)))
    if png:
        files["mask PNGs"] = write_pngs(out / "masks", sample, masks_F)
    return files


def write_text(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def write_keyframes(
    out: Path, sample: Sample, episode: Episode, masks_F: tuple[Rle | None, ...]
) -> dict[str, Path]:
    """Write a picture of each keyframe; return the files by their content."""
    files = {}
    pictures = keyframe_pictures(sample, episode, masks_F)
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
        "end": episode.end.value,
        "prompts": [asdict(prompt) for prompt in episode.answer.prompts],
        "segs": [asdict(seg) for seg in episode.answer.segs],
        "facts": episode.answer.to_json(),
        "spans_with_mask": spans([rle is not None for rle in masks_F]),
    }


def spans(with_mask_F: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the runs of True as half-open spans."""
    # Padded, so that a run at either end of the video has two edges as well.
    padded = [False, *with_mask_F, False]
    edges = np.flatnonzero(np.diff(padded)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


if __name__ == "__main__":
    run_job(main)
