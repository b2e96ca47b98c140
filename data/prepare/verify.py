"""Looks at every frame and every mask of one video, and says all that is missing, broken or odd instead of the first.

Stricter than reading for training: OpenCV returns a picture, half of it grey, for a JPEG that was cut short, and
pycocotools fills a mask whose runs are too few with whatever the memory held. This file knows no data set format, and
never raises for bad data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from core.types import Rle, Sample, Target, Video
from data.frames.frames import SUFFIXES
from data.readers.fields import image_size

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
MANY = 5  # masks of one object that are wrong in the same way: the rest is only counted


@dataclass(frozen=True)
class Problem:
    """Something about a video ("" where it is the data set's). Odd: it can be used, but a person should look."""

    video: str
    text: str
    odd: bool = False


def problems_of_video(video: Video, samples: Sequence[Sample]) -> list[Problem]:
    """All problems of a video's frames, masks and sentences; `samples` are the samples of this video."""
    targets = {target.uid: target for sample in samples for target in sample.targets}
    found = [Problem(video.uid, text) for text in broken_frames(video)]
    found += [
        Problem(video.uid, text)
        for target in targets.values()
        for text in broken_masks(video, target)
    ]
    if not found:
        found = [Problem(video.uid, text, odd=True) for text in oddities(samples)]
    return found


def broken_frames(video: Video) -> list[str]:
    """One text for each frame that is missing, cannot be decoded to its end, or has another size than the masks."""
    path = Path(video.path)
    if path.is_dir():
        return [text for name in video.frame_names if (text := _wrong_image(path / name, video))]
    if path.is_file():
        return _wrong_file(path, video)
    return [
        f"{path}: neither a folder of frames nor a video file: download video {video.uid!r}, or take it out"
    ]


def media_under(folder: Path) -> list[Video]:
    """Every folder of images and every video file below a folder, of unknown size: for lack of annotations."""
    names: dict[Path, set[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES:
            names.setdefault(path.parent, set()).add(path.name.removesuffix(path.suffix))
    images = [
        Video(str(path), str(path), tuple(sorted(stems)), 0, 0) for path, stems in names.items()
    ]
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in VIDEO_SUFFIXES]
    return images + [Video(str(path), str(path), (), 0, 0) for path in files]


def broken_masks(video: Video, target: Target) -> list[str]:
    """One text for each way in which masks of an object are wrong: number, size, or runs that do not fill the frame."""
    where = f"{video.path}: object {target.uid!r} of video {video.uid!r}"
    try:
        masks_F = tuple(target.masks_F)
    except (
        ValueError
    ) as error:  # masks are read when they are asked for, and the store says what is wrong with it
        return [str(error)]
    if len(masks_F) != video.num_frames:
        return [f"{where}: {len(masks_F)} masks for {video.num_frames} frames"]
    wrong = [
        f"{where}: frame {i}: {text}"
        for i, rle in enumerate(masks_F)
        if rle and (text := _wrong_rle(rle, video))
    ]
    more = [f"{where}: and {len(wrong) - MANY} more masks"] if len(wrong) > MANY else []
    return wrong[:MANY] + more


def oddities(samples: Sequence[Sample]) -> Iterator[str]:
    """What can be used but is hardly meant: sentences without a word, objects that are never visible."""
    for sample in samples:
        if not sample.query.strip():
            yield f"expression {sample.uid!r} has no words"
    for target in {target.uid: target for sample in samples for target in sample.targets}.values():
        if not any(rle is not None and runs_of(rle["counts"])[1::2] for rle in target.masks_F):
            yield f"object {target.uid!r} of video {samples[0].video.uid!r} is not visible in any frame"


def runs_of(counts: str) -> list[int]:
    """The run lengths of a compressed COCO encoding, background first (pycocotools, rleFrString).

    ValueError for text that is none: a letter outside of the alphabet, a number cut short, a negative run.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in counts.encode():
        code = letter - 48
        if not 0 <= code < 64:
            raise ValueError(f"{chr(letter)!r} is no letter of a run-length encoding")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            raise ValueError(f"run {len(runs) - 1} is {runs[-1]} pixels long")
        value = shift = 0
    if shift:
        raise ValueError("the last run is cut short")
    return runs


def _wrong_rle(rle: Rle, video: Video) -> str:
    size = (video.height, video.width)
    if tuple(rle["size"]) != size:
        return f'"size" is {list(rle["size"])}, but the frames are {size[0]} x {size[1]} (height x width)'
    try:
        pixels = sum(runs_of(rle["counts"]))
    except ValueError as error:
        return f'"counts" is not a run-length encoding: {error}'
    return (
        ""
        if pixels == size[0] * size[1]
        else f'"counts" fills {pixels} pixels of {size[0] * size[1]}'
    )


def _wrong_image(stem: Path, video: Video) -> str:
    path = next(
        (p for p in (stem.with_name(stem.name + suffix) for suffix in SUFFIXES) if p.is_file()),
        None,
    )
    if path is None:
        return f"{stem}{SUFFIXES[0]}: missing: extract the frames of video {video.uid!r} again"
    try:
        with Image.open(path) as image:
            image.load()  # to the last byte
        height, width = image_size(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{path}: damaged ({_short(error)}): extract the frames of video {video.uid!r} again"
    return _wrong_size(str(path), height, width, video)


def _wrong_file(path: Path, video: Video) -> list[str]:
    """Decodes the whole file, one frame in memory at a time."""
    seen = 0
    problems = list[str]()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    problems.append(
                        f"{path}: frame {seen} is damaged: copy or download the file again"
                    )
                if not seen:
                    turned = frame.rotation % 180 != 0  # a telephone's video, shown upright
                    height, width = (
                        (frame.width, frame.height) if turned else (frame.height, frame.width)
                    )
                    problems += (
                        [text]
                        if (text := _wrong_size(f"{path}: frame 0", height, width, video))
                        else []
                    )
                seen += 1
    except (av.FFmpegError, IndexError) as error:  # IndexError: no video stream
        problems.append(
            f"{path}: not a video, or damaged after frame {seen} ({_short(error)}): download it again"
        )
    else:
        if seen < video.num_frames:
            problems.append(
                f"{path}: {seen} frames, but {video.num_frames} are listed: download it again"
            )
    return problems


def _wrong_size(where: str, height: int, width: int, video: Video) -> str:
    if (height, width) == (video.height, video.width) or not video.height:  # 0: not known
        return ""
    return (
        f"{where} is {height} x {width}, but the masks of the video are {video.height} x {video.width} "
        "(height x width): use frames and masks of one release"
    )


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
