"""Segment the object of a sentence in your own video: masks, an overlay video, and the reasoning.

    python -m ray_jobs.segment VIDEO "the first dog to jump" [PRESET] [key=value ...]
    python -m ray_jobs.segment FOLDER "the first dog to jump" [PRESET] [key=value ...]
    python -m ray_jobs.segment LIST.csv [PRESET] [key=value ...]

Plays one greedy episode of each video with the actors of training and evaluation. Needs no data
set. Many videos, in a folder or in a list with the columns video and sentence, are shared among all
workers (`ray_jobs.driver.many_videos`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from configs.load import help_text, presets, resolve, validate
from configs.load import load as load_config
from configs.schema import Config
from core.types import Episode, Rle, Sample, Video
from data.bounds import allow_pixels
from data.frames.probing import check_sizes, probe_with_rate
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.video_list import check_sentence, is_list, lines_of, names_several
from ray_jobs.record.overlay import FPS
from ray_jobs.record.progress import Progress
from ray_jobs.record.segmented import (
    Maker,
    Style,
    folder_name,
    verdict,
    video_in,
    write_results,
)

# The embedded default.
PRESET = "revseg_tiny"


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


# A real clip gets an answer too, which looks like a fault of the program.
SHAPES_ONLY = (
    "the policy that comes with rayvos knows coloured shapes only; for real video give real "
    "weights: policy.path=FOLDER segmenter.path=FILE"
)


def main(argv: Sequence[str]) -> None:
    given = parser().parse_intermixed_args(argv)
    if names_several(given.video):
        segment_several(given)
        return
    cfg = settings(given.settings)
    out = Path(given.out) if given.out else None
    segment(given.video, given.sentence or "", cfg, out, style_of(given))
    if is_shipped(cfg):
        print(SHAPES_ONLY, flush=True)


def segment_several(given: argparse.Namespace) -> None:
    """Segment the videos of a folder or of a list.

    Raises:
        ValueError: As `lines_of` and `segment_many`.
    """
    words = list(given.settings)
    sentence = given.sentence or ""
    if is_list(given.video) and sentence:
        # The sentences are in the list, so the word after it is a preset or a setting.
        words = [sentence, *words]
    cfg = settings(words, all_workers=True)
    style = style_of(given)
    allow_pixels(cfg.data.max_pixels)
    lines = lines_of(given.video, sentence)
    out = Path(cfg.runs) / "segment" / Path(given.video).stem
    if given.out:
        out = Path(given.out)
    # This import takes seconds; wrong words are reported before it.
    from ray_jobs.driver.many_videos import segment_many

    if is_shipped(cfg):
        print(SHAPES_ONLY, flush=True)
    segment_many(lines, out, cfg, style)


def parser() -> argparse.ArgumentParser:
    text = help_text()
    keys = text[text.index("presets:") :]
    found = argparse.ArgumentParser(
        "python -m ray_jobs.segment",
        description="Segment the object of a sentence in a video of your own.",
        epilog=keys,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "video",
        help=(
            "a video file, an image, or a folder of images; or many: a folder of these, or a CSV "
            "file with the columns video and sentence"
        ),
    )
    found.add_argument(
        "sentence",
        nargs="?",
        help='what to segment, e.g. "the dog that jumps first"; not with a CSV file',
    )
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
        help=f"frame rate of the overlay (default: the video's own times; {FPS} for images)",
    )
    found.add_argument(
        "--audio",
        action="store_true",
        help="keep the sound in the overlay, which then does not hold the keyframe",
    )
    return found


def settings(words: Sequence[str], all_workers: bool = False) -> Config:
    """Return the configuration for videos without a data set: no learner, no tracking.

    Args:
        all_workers: Keep the number of actors; otherwise there is one of a kind, for one video.

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
    cfg.tracking = replace(cfg.tracking, mlflow_uri="")
    # The store of decoded frames is sized to so many groups; a video is read once, from end to end.
    cfg.rollout = replace(cfg.rollout, prompts_per_step=1)
    if not all_workers:
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
    style: Style | None = None,
) -> Written:
    """Play one episode, segment its answer, and write the results.

    Args:
        path: A video file, an image, or a folder of images.
        sentence: A description of the object.
        cfg: As `settings` returns it.
        out: Folder of the results; by default <runs>/segment/<name of the video>.
        style: What is written beside the masks; its rate is that of the video.

    Raises:
        ValueError: Not a video, an empty sentence, or impossible settings; in one line, before any
            engine starts.
    """
    allow_pixels(cfg.data.max_pixels)
    video, rate = probe_with_rate(path)
    check_sizes(video)
    check_sentence(sentence)
    out = out or folder_of(cfg, video)
    sample = Sample(f"{video.uid}/0", video, sentence.strip(), ())

    with Progress.open(0, title_of(cfg, video, rate)) as progress:
        # These imports take seconds; a wrong file is reported before them.
        with progress.phase("load"):
            from actors.setup import make_system
            from ray_jobs.driver.one_episode import one_episode
            from ray_jobs.driver.preflight import check_prompts
        maker = Maker.of(cfg)
        counted = check_prompts(cfg, make_system(cfg), [[sample]])
        progress.note(str(counted))
        episode, masks_F, objects_OF = one_episode(cfg, sample, progress)

        with progress.phase("write"):
            style = replace(style or Style(), rate=rate)
            files = write_results(out, maker, sample, episode, masks_F, style, objects_OF)
        say_files(progress, files)
        progress.note(verdict(episode, masks_F))
    return Written(episode, masks_F, files)


def say_files(progress: Progress, files: Mapping[str, Path]) -> None:
    """Say where each of the written files is."""
    for name, file in files.items():
        progress.note(f"{name + ':':<11} {file}")


def is_shipped(cfg: Config) -> bool:
    """Return whether the policy is one of those that come with rayvos."""
    return resolve(cfg.policy.path).is_relative_to(resolve("tiny/weights"))


def style_of(given: argparse.Namespace) -> Style:
    """Return what was asked for.

    Raises:
        ValueError: A frame rate that is not above 0, or one for a video with its sound.
    """
    if given.fps is not None and given.fps <= 0:
        raise ValueError(f"--fps {given.fps}: must be above 0")
    if given.fps is not None and given.audio:
        raise ValueError("--fps with --audio: the sound fits the video's own rate alone")
    return Style(fps=given.fps, png=given.png, audio=given.audio)


def folder_of(cfg: Config, video: Video) -> Path:
    """Return the default folder of the results: one for each video, by its name and a number."""
    name = folder_name(video)
    folder = Path(cfg.runs) / "segment" / name
    number = 2
    while video_in(folder) not in ("", video.path):
        folder = folder.with_name(f"{name}_{number}")
        number += 1
    return folder


def title_of(cfg: Config, video: Video, rate: Fraction | None) -> str:
    """Return what is done with what, in one line."""
    return f"{cfg.system.name} · {cfg.policy.path} · {video.path}: {size_of(video, rate)}"


def size_of(video: Video, rate: Fraction | None) -> str:
    """Return number, size and rate of the frames in words."""
    text = f"{video.num_frames} frames of {video.width} x {video.height}"
    if rate:
        text += f", {float(rate):g}/s"
    return text


if __name__ == "__main__":
    run_job(main)
