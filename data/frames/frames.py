"""Frames of a video as arrays: read from a folder of images or from a video file, resized and digested for a dialogue.

Decoded frames are kept in the node's store, so that whoever asks on this node, a frame is decoded once while it is
kept there. A file that changes (in size or time) is read again. This file knows no data set.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from core.types import Media, Video, View
from data.frames.decoders import DECODERS, TIMEOUT_S, decode, facts
from data.frames.frame_store import node_store

SUFFIXES = (".jpg", ".png", ".jpeg")  # of a frame in a folder, where its name does not say
IMAGES = (*SUFFIXES, ".webp", ".bmp", ".tif", ".tiff")  # of a picture that a person gives
BLOCK = 64  # frames of a video file that are decoded together when it is read from end to end ...
BLOCK_BYTES = 128 << 20  # ... or fewer, where they are large


def read_frames(
    video: Video,
    indices: Sequence[int],
    *,
    block: int = 1,
    decoders: Sequence[str] = DECODERS,
    timeout_s: float = TIMEOUT_S,
) -> np.ndarray:
    """The frames `indices`, in that order, repeats allowed: uint8 (n, height, width, 3) RGB.

    Args:
        block: of a video file, missing frames are decoded in whole blocks of so many: for those who will read on.

    ValueError, naming file and frame, for a missing or damaged file, a video shorter than `video.num_frames` says,
    and frames of another size than `video` says.
    """
    wrong = [index for index in indices if not 0 <= index < video.num_frames]
    if wrong:
        raise ValueError(
            f"{video.path}: frame {wrong[0]} does not exist: the video has {video.num_frames} frames"
        )
    if not len(indices):
        return np.zeros((0, video.height, video.width, 3), np.uint8)
    frames = _stored(video, sorted(set(indices)), block, decoders, timeout_s)
    for index in set(indices):
        _check_size(video, index, frames[index])
    return np.stack([frames[index] for index in indices])  # a copy: the caller may write into it


@dataclass(frozen=True)
class Clip:
    """A video as an array that is read piece by piece: `clip[start:stop]` is uint8 (n, height, width, 3)."""

    video: Video

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.video.num_frames, self.video.height, self.video.width, 3

    def __getitem__(self, wanted: slice) -> np.ndarray:
        block = min(max(BLOCK_BYTES // (self.video.height * self.video.width * 3), 8), BLOCK)
        return read_frames(self.video, range(*wanted.indices(self.video.num_frames)), block=block)


def probe(path: str | Path) -> Video:
    """A video as it is in a file: true size and number of frames, also where their rate varies.

    A video file, an image (a video of one frame), or a folder of images (frame 2 before frame 10). Raises
    ValueError, naming the file, for what is not there, empty, without pictures, or not readable.
    """
    return inspect(path)[0]


def inspect(path: str | Path) -> tuple[Video, Fraction | None]:
    """As `probe`, and the frames a second (the mean, where they vary); None for images."""
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise ValueError(
            f"{path}: no such file or folder; give a video file, an image, or a folder of images"
        )
    if path.is_dir() or path.suffix.lower() in IMAGES:
        folder = path if path.is_dir() else path.parent
        names = (
            [p.name for p in folder.iterdir() if p.suffix.lower() in IMAGES]
            if path.is_dir()
            else [path.name]
        )
        if not names:
            raise ValueError(f"{path}: no image in this folder; known are {', '.join(IMAGES)}")
        names.sort(
            key=lambda name: [
                int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)
            ]
        )
        return Video(path.stem, str(folder), tuple(names), *frame_size(str(folder), names)), None
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    found = facts(str(path))
    names = [f"{index:05d}" for index in range(found["frames"])]
    return Video(path.stem, str(path), tuple(names), found["height"], found["width"]), Fraction(
        *found["rate"]
    )


def show(video: Video, views: Sequence[View]) -> list[tuple[Media, np.ndarray]]:
    """What the policy gets to see: for each view its pixels, uint8 (view.height, view.width, 3), under their digest."""
    frames_nHWC = read_frames(video, [view.frame for view in views])
    pixels = [_resize(frame_HWC, view) for frame_HWC, view in zip(frames_nHWC, views, strict=True)]
    return [
        (Media(digest(image_HWC), view), image_HWC)
        for image_HWC, view in zip(pixels, views, strict=True)
    ]


def digest(image_HWC: np.ndarray) -> str:
    """The name of an image: equal for equal pixels of equal shape (BLAKE2b, 128 bits)."""
    assert image_HWC.dtype == np.uint8, f"an image holds uint8, not {image_HWC.dtype}"
    header = repr(image_HWC.shape).encode()
    return hashlib.blake2b(
        header + np.ascontiguousarray(image_HWC).tobytes(), digest_size=16
    ).hexdigest()


def frame_size(path: str, frame_names: Sequence[str]) -> tuple[int, int]:
    """(height, width) of the first frame, for a data set that does not say. Errors as `read_frames`."""
    unsized = Video("", path, tuple(frame_names), 0, 0)
    height, width = _stored(unsized, [0], 1, DECODERS, TIMEOUT_S)[0].shape[:2]
    return height, width


def _resize(frame_HWC: np.ndarray, view: View) -> np.ndarray:
    """Averages when shrinking (no aliasing), interpolates when growing."""
    height, width = frame_HWC.shape[:2]
    if (height, width) == (view.height, view.width):
        return frame_HWC
    shrinks = view.height <= height and view.width <= width
    flag = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame_HWC, (view.width, view.height), interpolation=flag))


def _check_size(video: Video, index: int, frame_HWC: np.ndarray) -> None:
    if frame_HWC.shape[:2] != (video.height, video.width):
        height, width = frame_HWC.shape[:2]
        raise ValueError(
            f"{video.path}: frame {index} is {height} x {width} (height x width), but the masks or first frame of the "
            f"video are {video.height} x {video.width}: use frames and masks of one release of the data, in one size"
        )


def _stored(
    video: Video, wanted: Sequence[int], block: int, decoders: Sequence[str], timeout_s: float
) -> dict[int, np.ndarray]:
    """Frames at ascending, distinct numbers; missing ones are put into the node's store."""
    store = node_store()
    folder = Path(video.path).is_dir()
    names = _names(video, wanted) if folder else _numbered(video, wanted)
    found = _known(names)
    if len(found) < len(names):
        with store.lock(video.path):
            found |= _known(
                {index: name for index, name in names.items() if index not in found}
            )  # by others, just now
            missing = {index: name for index, name in names.items() if index not in found}
            if folder:
                found |= _store_images(video, missing)
            elif missing:
                found |= _store_decoded(video, list(missing), block, decoders, timeout_s)
        store.tidy()
    return found


def _known(names: Mapping[int, str]) -> dict[int, np.ndarray]:
    frames = {index: node_store().get(name) for index, name in names.items()}
    return {index: frame_HWC for index, frame_HWC in frames.items() if frame_HWC is not None}


def _store_images(video: Video, names: Mapping[int, str]) -> dict[int, np.ndarray]:
    frames = {}
    with node_store().scratch() as scratch:
        for index, name in names.items():
            np.save(scratch / "image.npy", _read_image(video, index))
            frames[index] = node_store().put(name, scratch / "image.npy")
    return frames


def _store_decoded(
    video: Video, missing: Sequence[int], block: int, decoders: Sequence[str], timeout_s: float
) -> dict[int, np.ndarray]:
    """The missing frames, and of their blocks all that are not there."""
    starts = dict.fromkeys(index // block * block for index in missing)
    blocks = [i for start in starts for i in range(start, min(start + block, video.num_frames))]
    names = _numbered(video, blocks)
    store = node_store()
    ahead = [i for i in blocks if i in missing or not store.has(names[i])]
    with store.scratch() as scratch:
        decode(
            video.path,
            ahead,
            scratch,
            decoders=decoders,
            timeout_s=timeout_s,
            num_frames=video.num_frames,
        )
        return {index: store.put(names[index], scratch / f"{index}.npy") for index in ahead}


def _numbered(video: Video, wanted: Sequence[int]) -> dict[int, str]:
    """Names in the store of the frames of a video file."""
    if not Path(video.path).is_file():
        raise ValueError(
            f"{video.path}: neither a folder of frames nor a video file: needed for frame {wanted[0]}; "
            "is the data set complete, and its root right (data.root)?"
        )
    content = _content(video.path)
    return {index: f"{content}-{index}" for index in wanted}


def _names(video: Video, wanted: Sequence[int]) -> dict[int, str]:
    """Names in the store of the frames of a folder."""
    return {index: _content(_image_file(video, index)) for index in wanted}


def _content(path: str) -> str:
    """Another one when the file changes."""
    status = os.stat(path)
    told = f"{os.path.abspath(path)}|{status.st_mtime_ns}|{status.st_size}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def _image_file(video: Video, index: int) -> str:
    stem = os.path.join(video.path, video.frame_names[index])
    suffixes = ("", *SUFFIXES) if os.path.splitext(stem)[1].lower() in IMAGES else SUFFIXES
    path = next((stem + suffix for suffix in suffixes if os.path.isfile(stem + suffix)), None)
    if path is None:
        where = f"frame {index} of {video.num_frames} of video {video.path!r}"
        raise ValueError(
            f"{stem}{suffixes[0]}: missing ({where}): extract the frames of this video again"
        )
    return path


def _read_image(video: Video, index: int) -> np.ndarray:
    path = _image_file(video, index)
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        where = f"frame {index} of {video.num_frames} of video {video.path!r}"
        raise ValueError(
            f"{path}: not a readable image ({where}): extract the frames of this video again"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
