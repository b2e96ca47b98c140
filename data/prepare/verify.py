"""Look at every frame and every mask of a video, and list everything missing, broken or odd.

This is stricter than reading for training: OpenCV returns a picture with a grey half for an
incomplete JPEG, and pycocotools fills a mask with too few runs from memory. Bad data becomes a
`Problem` and never an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from core.types import Rle, Sample, Target, Video
from data.bounds import TooLargeError, max_pixels
from data.frames.images import (
    FRAME_SUFFIXES,
    frame_file,
    image_size,
    is_hidden,
    is_image,
    num_pages,
    read_image,
    read_pages,
)
from data.frames.probing import VIDEO_SUFFIXES
from data.frames.video_file import open_video, pictures, shown_size
from data.masks.png_masks import PngMasks
from data.masks.sparse import looks_sparse, sparse_text
from data.memory import TOO_MUCH

# Masks of one object to list; further ones are only counted.
MANY = 5


@dataclass(frozen=True)
class Problem:
    """A problem of a video.

    Attributes:
        video: Uid of the video; "" for a problem of the data set.
        odd: True if the video can be used, but a person should look at it.
    """

    video: str
    text: str
    odd: bool = False


def problems_of_video(video: Video, samples: Sequence[Sample]) -> list[Problem]:
    """Return all problems of a video's frames, masks and sentences.

    Args:
        samples: The samples of this video.
    """
    try:
        texts = broken_frames(video)
        for target in _targets_of(samples):
            texts += broken_masks(video, target)
        odd = [] if texts else list(oddities(samples))
    # One odd file must not end the check of all others.
    except Exception as error:
        texts = [cannot_check(video, error)]
        odd = []
    problems = [Problem(video.uid, text) for text in texts]
    return problems + [Problem(video.uid, text, odd=True) for text in odd]


def cannot_check(video: Video, error: Exception) -> str:
    """Return a text for a video that ended its check."""
    return f"{video.path}: video {video.uid!r} cannot be checked ({short(error)}): take it out"


def broken_frames(video: Video) -> list[str]:
    """Return a text for each missing or damaged frame, or one of another size than the masks."""
    path = Path(video.path)
    if path.is_dir():
        texts = []
        for name in video.frame_names:
            text = _wrong_image(path, name, video)
            if text:
                texts.append(text)
        return texts
    if path.is_file() and is_image(path.name):
        return _wrong_pages(path, video)
    if path.is_file():
        return _wrong_video_file(path, video)
    return [
        f"{path}: neither a folder of frames nor a video file: download video {video.uid!r}, or "
        "take it out"
    ]


def media_under(folder: Path) -> list[Video]:
    """Return every folder of images and every video file below a folder, of unknown size.

    They stand in for the videos of a data set with unreadable annotations.
    """
    image_names: dict[Path, set[str]] = {}
    video_files = []
    for path in sorted(folder.rglob("*")):
        if is_hidden(path.name):
            continue
        if is_image(path.name):
            name = path.name.removesuffix(path.suffix)
            image_names.setdefault(path.parent, set()).add(name)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            video_files.append(Video(str(path), str(path), (), 0, 0))

    folders = []
    for path, names in image_names.items():
        folders.append(Video(str(path), str(path), tuple(sorted(names)), 0, 0))
    return folders + video_files


def broken_masks(video: Video, target: Target) -> list[str]:
    """Return a text for each error in the masks of an object.

    Errors are a wrong number or size of masks, and runs too few or too many for the frame.
    """
    where = f"{video.path}: object {target.uid!r} of video {video.uid!r}"
    try:
        # Lazy masks are read now; an error names their file.
        masks_F = tuple(target.masks_F)
    except ValueError as error:
        return [str(error)]
    if len(masks_F) != video.num_frames:
        return [f"{where}: {len(masks_F)} masks for {video.num_frames} frames"]

    wrong = []
    for frame, rle in enumerate(masks_F):
        if not rle:
            continue
        text = _wrong_rle(rle, video)
        if text:
            wrong.append(f"{where}: frame {frame}: {text}")
    if len(wrong) > MANY:
        return [*wrong[:MANY], f"{where}: and {len(wrong) - MANY} more masks"]
    return wrong


def oddities(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield oddities in the samples of a video: sentences without words, invisible objects."""
    for sample in samples:
        if not sample.query.strip():
            yield f"expression {sample.uid!r} has no words"
    for target in _targets_of(samples):
        if target.place is not None:
            continue
        sparse = _sparse(target, samples[0])
        if sparse:
            yield sparse
        if not any(rle is not None and _has_pixels(rle) for rle in target.masks_F):
            video = samples[0].video.uid
            yield f"object {target.uid!r} of video {video!r} is not visible in any frame"


def _sparse(target: Target, sample: Sample) -> str:
    """Return a text for masks on every few frames that count as an object that comes and goes."""
    masks_F = target.masks_F
    # Only your own data set can say what a frame without a mask means.
    is_own = isinstance(masks_F, tuple)
    if isinstance(masks_F, PngMasks):
        is_own = masks_F.missing_is_none
    if not is_own or sample.notes.frames_listed is not None:
        return ""
    with_mask_F = [rle is not None for rle in masks_F]
    return sparse_text(target.uid, with_mask_F) if looks_sparse(with_mask_F) else ""


def runs_of(counts: str) -> list[int]:
    """Return the run lengths of a compressed COCO encoding, background first.

    The format is that of rleFrString in pycocotools.

    Raises:
        ValueError: The text has a letter outside of the alphabet, an incomplete number, or a
            negative run.
    """
    runs: list[int] = []
    value = 0
    shift = 0
    for letter in counts.encode():
        code = letter - 48
        if not 0 <= code < 64:
            raise ValueError(f"{chr(letter)!r} is no letter of a run-length encoding")
        value |= (code & 31) << shift
        shift += 5
        # Bit 6: the number goes on.
        if code & 32:
            continue
        # Bit 5 of the last letter is the sign.
        if code & 16:
            value -= 1 << shift
        # From the fourth run on, each is a difference to the last but one.
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            raise ValueError(f"run {len(runs)} is {value} pixels long")
        runs.append(value)
        value = 0
        shift = 0
    if shift:
        raise ValueError("the last run is cut short")
    return runs


def _targets_of(samples: Sequence[Sample]) -> list[Target]:
    """Return the objects of the samples, each once."""
    targets: dict[str, Target] = {}
    for sample in samples:
        for target in sample.targets:
            targets[target.uid] = target
    return list(targets.values())


def _has_pixels(rle: Rle) -> bool:
    object_runs = runs_of(rle["counts"])[1::2]
    return bool(object_runs)


def _wrong_rle(rle: Rle, video: Video) -> str:
    """Return the error in a mask, or ""."""
    height = video.height
    width = video.width
    if tuple(rle["size"]) != (height, width):
        return (
            f'"size" is {list(rle["size"])}, but the frames are {height} x {width} (height x width)'
        )
    try:
        pixels = sum(runs_of(rle["counts"]))
    except ValueError as error:
        return f'"counts" is not a run-length encoding: {error}'
    if pixels != height * width:
        return f'"counts" fills {pixels} pixels of {height * width}'
    return ""


def _wrong_pages(path: Path, video: Video) -> list[str]:
    """Return the error in an animation or a TIFF of pages, if there is one."""
    try:
        for number, page_HWC in enumerate(read_pages(path, range(num_pages(path)))):
            height, width = page_HWC.shape[:2]
            wrong = _wrong_size(f"{path}: page {number}", height, width, video)
            if wrong:
                return [wrong]
    except ValueError as error:
        return [str(error)]
    return []


def _wrong_image(folder: Path, name: str, video: Video) -> str:
    """Return the error in an image, or ""."""
    path = frame_file(folder, name)
    if path is None:
        suffix = "" if is_image(name) else FRAME_SUFFIXES[0]
        return f"{folder / name}{suffix}: missing: extract the frames of video {video.uid!r} again"
    try:
        height, width = image_size(path)
        wrong = _wrong_size(str(path), height, width, video)
        if wrong:
            return wrong
        with Image.open(path) as image:
            # Opening reads the header alone; this reads to the last byte.
            image.load()
        # What training reads may refuse more than Pillow does.
        read_image(path)
    except TooLargeError as error:
        return str(error)
    # A damaged image raises almost anything.
    except Exception as error:
        return f"{path}: damaged ({short(error)}): extract the frames of video {video.uid!r} again"
    return ""


def _wrong_video_file(path: Path, video: Video) -> list[str]:
    """Decode a whole video file, one frame in memory at a time, and return its errors."""
    seen = 0
    texts: list[str] = []
    damages: list[str] = []
    try:
        with open_video(str(path), max_pixels()) as (container, stream):
            # The first picture of another size is not worth its memory.
            wrong = _too_large(path, stream, video)
            if wrong:
                return [wrong]
            for frame in pictures(container, stream, damages):
                if frame.is_corrupt:
                    damages.append("its picture is incomplete")
                if damages and not texts:
                    texts.append(
                        f"{path}: damaged at frame {seen} ({_first_line(damages[0])}): copy or "
                        "download the file again"
                    )
                if seen == 0:
                    height, width = shown_size(frame)
                    wrong = _wrong_size(f"{path}: frame 0", height, width, video)
                    if wrong:
                        texts.append(wrong)
                seen += 1
    except (av.FFmpegError, ValueError) as error:
        return [f"{path}: not a video ({short(error)}): download it again"]
    if damages and not texts:
        texts.append(
            f"{path}: damaged after frame {seen} ({_first_line(damages[0])}): download it again"
        )

    needed = video.number(video.num_frames - 1) + 1
    if seen < needed:
        texts.append(f"{path}: {seen} frames, but {needed} are listed: download it again")
    return texts


def _too_large(path: Path, stream: av.VideoStream, video: Video) -> str:
    """Return the error of a stream of larger pictures than its video has."""
    pixels = video.height * video.width or max_pixels()
    # Codecs pad pictures to whole blocks.
    padded = pixels + 64 * (stream.width + stream.height + 64)
    if stream.width * stream.height <= padded:
        return ""
    return _wrong_size(f"{path}: frame 0", stream.height, stream.width, video)


def _wrong_size(where: str, height: int, width: int, video: Video) -> str:
    # Height 0 means that the size of the video is not known.
    if (height, width) == (video.height, video.width) or not video.height:
        return ""
    return (
        f"{where} is {height} x {width}, but the masks of the video are {video.height} x "
        f"{video.width} (height x width): use frames and masks of one release"
    )


def short(error: Exception) -> str:
    """Return an error as a part of a line."""
    if isinstance(error, MemoryError):
        return TOO_MUCH
    kind = type(error).__name__
    text = _first_line(str(error))
    # The text of some errors means nothing without their kind: KeyError is a bare key.
    return text if isinstance(error, ValueError | OSError) and text else f"{kind}: {text}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:160]
