"""A person's own video and a sentence -> masks, an overlay video, and why.

`python -m ray_jobs.segment VIDEO "the dog that jumps first" [PRESET] [key=value ...]` plays one greedy episode with the
actors of training and evaluation, and needs no data set. It knows no system: what the answer holds is written as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
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
from core.types import Episode, Rle, Sample
from data.frames.frames import inspect
from ray_jobs.driver.entry import run_job
from ray_jobs.record.overlay import FPS, keyframe_pictures, keyframes_of, overlay_video
from ray_jobs.record.progress import Progress

PRESET = "revseg_tiny"  # the embedded default


@dataclass(frozen=True)
class Written:
    """What `segment` leaves: the episode, a mask or None for each frame, and the files."""

    episode: Episode
    masks_F: tuple[Rle | None, ...]
    files: dict[str, Path]


def parser() -> argparse.ArgumentParser:
    text = help_text()
    keys = text[text.index("presets:") :]
    found = argparse.ArgumentParser(
        "python -m ray_jobs.segment",
        description="Segments what a sentence says in a video of your own.",
        epilog=keys,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("video", help="a video file, an image, or a folder of images")
    found.add_argument("sentence", help='what to segment, e.g. "the dog that jumps first"')
    found.add_argument(
        "settings",
        nargs="*",
        metavar="PRESET | key=value",
        help=f"a preset or YAML file (default {PRESET}), then settings, e.g. policy.path=FOLDER segmenter.path=FILE",
    )
    found.add_argument(
        "--out", metavar="FOLDER", help="of the results (default: runs/segment/<name of the video>)"
    )
    found.add_argument(
        "--png",
        action="store_true",
        help="write each frame's mask as a PNG too (255 on the object)",
    )
    found.add_argument(
        "--fps", type=Fraction, help=f"of the overlay (default: the video's own; {FPS} for images)"
    )
    return found


def settings(words: Sequence[str]) -> Config:
    """The configuration for one video: one actor of a kind, no learner, no data. ValueError as `configs.load`."""
    named = [
        word.removeprefix("preset=")
        for word in words
        if word.startswith("preset=") or "=" not in word
    ]
    if len(named) > 1:
        raise ValueError(
            f"two presets, {named[0]!r} and {named[1]!r}; give one of {', '.join(presets())}"
        )
    cfg = load_config(
        [*(named or [PRESET]), *(w for w in words if "=" in w and not w.startswith("preset="))]
    )
    cfg.data = replace(cfg.data, root=".", synthetic=False)  # of no matter: there is no data set
    cfg.rollout, cfg.segmenter = replace(cfg.rollout, workers=1), replace(cfg.segmenter, workers=1)
    cfg.cluster = replace(cfg.cluster, weight_backend="object_store")
    validate(cfg)
    cfg.learner = replace(cfg.learner, world_size=0)  # asks for no GPU
    if resolve(cfg.policy.path).is_dir():
        cfg.policy = replace(cfg.policy, path=str(resolve(cfg.policy.path)))
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
    """Plays, segments and writes the results into `out` (by default <runs>/segment/<name of the video>).

    Raises:
        ValueError: in one line, a file that is no video, an empty sentence, or settings that cannot work; before any
            engine starts.
    """
    video, rate = inspect(path)
    if not sentence.strip():
        raise ValueError("the sentence is empty: say what to segment")
    if fps is not None and fps <= 0:
        raise ValueError(f"--fps {fps}: must be above 0")
    out = out or Path(cfg.runs) / "segment" / re.sub(r"[^\w.-]+", "_", video.uid)
    sample = Sample(f"{video.uid}/0", video, sentence.strip(), ())
    about = f"{video.num_frames} frames of {video.width} x {video.height}" + (
        f", {float(rate):g}/s" if rate else ""
    )
    with Progress.open(
        0, f"{cfg.system.name} · {cfg.policy.path} · {video.path}: {about}"
    ) as progress:
        with progress.phase(
            "load"
        ):  # here, because it takes seconds, and a wrong file is told at once
            from actors.setup import make_system
            from ray_jobs.driver.one_episode import one_episode
        make_system(cfg)
        episode, masks_F = one_episode(cfg, sample, progress)
        with progress.phase("write"):
            out.mkdir(parents=True, exist_ok=True)
            files = dict(
                _write(out, cfg, sample, episode, masks_F, fps or rate or Fraction(FPS), png)
            )
        for name, file in files.items():
            progress.note(f"{name + ':':<11} {file}")
        progress.note(verdict(episode, masks_F))
    return Written(episode, masks_F, files)


def verdict(episode: Episode, masks_F: Sequence[Rle | None]) -> str:
    """What came out, in one line."""
    shown = [frame for frame, rle in enumerate(masks_F) if rle is not None]
    if not episode.answer.prompts and not episode.answer.segs:
        return f"the policy gave no box or point ({episode.end.value}), so there is no mask: see reasoning.txt"
    where = ", ".join(str(frame) for frame in sorted(keyframes_of(episode)))
    if not shown and not episode.answer.prompts:
        return f"keyframe {where}, but the mask that the policy drew there is empty"
    if not shown:
        return f"keyframe {where}, but the segmenter found nothing in the box"
    return f"keyframe {where}; masks on {len(shown)} of {len(masks_F)} frames ({shown[0]} to {shown[-1]})"


def dialogue(sample: Sample, episode: Episode) -> str:
    """What was asked and said, to read."""
    lines = [f"sentence: {sample.query}", ""]
    for number, turn in enumerate(episode.turns, 1):
        frames = ", ".join(str(media.view.frame) for media in turn.media)
        lines += [
            f"turn {number}, shown frames {frames or 'none'}:",
            turn.text.strip() or "(nothing)",
            "",
        ]
    return "\n".join([*lines, f"end: {episode.end.value}", ""])


def answer(
    cfg: Config, sample: Sample, episode: Episode, masks_F: Sequence[Rle | None]
) -> dict[str, Any]:
    """What was found, JSON-able; boxes and points in pixels of the video, frames from 0, spans [start, stop)."""
    video = sample.video
    return {
        "video": video.path,
        "frames": video.num_frames,
        "height": video.height,
        "width": video.width,
        "sentence": sample.query,
        "system": cfg.system.name,
        "policy": cfg.policy.path,
        "segmenter": cfg.segmenter.path if cfg.segmenter.kind == "sam2" else cfg.segmenter.kind,
        "end": episode.end.value,
        "prompts": [asdict(prompt) for prompt in episode.answer.prompts],
        "segs": [asdict(seg) for seg in episode.answer.segs],
        "facts": episode.answer.to_json(),
        "spans_with_mask": spans([rle is not None for rle in masks_F]),
    }


def spans(shown_F: Sequence[bool]) -> list[tuple[int, int]]:
    """Runs of True as half-open spans."""
    edges = np.flatnonzero(np.diff([False, *shown_F, False])).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _write(
    out: Path,
    cfg: Config,
    sample: Sample,
    episode: Episode,
    masks_F: tuple[Rle | None, ...],
    fps: Fraction,
    png: bool,
) -> Iterable[tuple[str, Path]]:
    """Writes everything; yields what each file is."""
    yield "overlay", overlay_video(out / "overlay.mp4", sample, episode, masks_F, None, fps)
    pictures = keyframe_pictures(sample, episode, masks_F)
    for frame, image_HWC in pictures.items():
        name = "keyframe" if len(pictures) == 1 else f"keyframe_{frame}"
        Image.fromarray(image_HWC).save(out / f"{name}.png")
        yield name, out / f"{name}.png"
    video = sample.video
    masks = {"video": video.path, "height": video.height, "width": video.width, "masks": masks_F}
    found = answer(cfg, sample, episode, masks_F)
    for name, file, text in (
        ("masks", "masks.json", json.dumps(masks)),
        ("answer", "answer.json", json.dumps(found, indent=2) + "\n"),
        ("reasoning", "reasoning.txt", dialogue(sample, episode)),
    ):
        (out / file).write_text(text, encoding="utf-8")
        yield name, out / file
    if png:
        yield "mask PNGs", _write_pngs(out / "masks", sample, masks_F)


def _write_pngs(folder: Path, sample: Sample, masks_F: Sequence[Rle | None]) -> Path:
    folder.mkdir(exist_ok=True)
    size = (sample.video.width, sample.video.height)
    for name, rle in zip(sample.video.frame_names, masks_F, strict=True):
        image = (
            Image.fromarray(decode(rle).astype("uint8") * 255)
            if rle is not None
            else Image.new("L", size)
        )
        image.save(folder / f"{Path(name).stem}.png")
    return folder


def main(argv: Sequence[str]) -> None:
    given = parser().parse_intermixed_args(argv)
    out = Path(given.out) if given.out else None
    segment(
        given.video, given.sentence, settings(given.settings), out, png=given.png, fps=given.fps
    )


if __name__ == "__main__":
    run_job(main)
