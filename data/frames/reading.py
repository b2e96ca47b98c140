"""Frames of a video as arrays, from a folder of images or from a video file.

    frames_nHWC = read_frames(video, [0, 8, 16])
    shown = show_views(video, [View(8, 280, 504)])

Decoded frames stay in the node's store, so that processes on one node decode each frame once. A
file with another size or time of change is read again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.digest import image_digest
from core.types import Media, Video, View
from data.frames.decoders import DECODERS, TIMEOUT_S, decode
from data.frames.frame_store import content_name, node_store
from data.frames.images import (
    FRAME_SUFFIXES,
    frame_file,
    is_image,
    read_image,
    read_pages,
)

# Frames of a video file to decode together when it is read from end to end, fewer if they are
# large.
BLOCK = 64
BLOCK_BYTES = 128 << 20


def read_frames(
    video: Video,
    indices: Sequence[int],
    *,
    block: int = 1,
    decoders: Sequence[str] = DECODERS,
    timeout_s: float = TIMEOUT_S,
) -> np.ndarray:
    """Return the frames `indices`, uint8 (n, height, width, 3) RGB, in that order, with repeats.

    Args:
        block: Number of frames of a video file to decode together, for callers about to read on.

    Raises:
        ValueError: A file is missing or damaged, the video is shorter than `video.num_frames`, or a
            frame has another size than `video`. The message names the file and the frame.
    """
    for index in indices:
        if not 0 <= index < video.num_frames:
            raise ValueError(
                f"{video.path}: frame {index} does not exist: the video has {video.num_frames} "
                "frames"
            )
    if not len(indices):
        return np.zeros((0, video.height, video.width, 3), np.uint8)

    frames = _load_frames(video, sorted(set(indices)), block, decoders, timeout_s)
    for index in set(indices):
        _check_size(video, index, frames[index])
    # Stacking copies: the caller may write into the result, but not into the store.
    return np.stack([frames[index] for index in indices])


@dataclass(frozen=True)
class Clip:
    """A video as an array, read slice by slice.

    `clip[start:stop]` is uint8 (n, height, width, 3).
    """

    video: Video

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.video.num_frames, self.video.height, self.video.width, 3

    def __getitem__(self, wanted: slice) -> np.ndarray:
        frame_bytes = self.video.height * self.video.width * 3
        block = min(max(BLOCK_BYTES // frame_bytes, 8), BLOCK)
        indices = range(*wanted.indices(self.video.num_frames))
        return read_frames(self.video, indices, block=block)


def show_views(
    video: Video,
    views: Sequence[View],
) -> list[tuple[Media, np.ndarray]]:
    """Return the image of each view, uint8 (view.height, view.width, 3), with its digest."""
    frames_nHWC = read_frames(video, [view.frame for view in views])
    shown = []
    for frame_HWC, view in zip(frames_nHWC, views, strict=True):
        image_HWC = resize_to_view(frame_HWC, view)
        shown.append((Media(image_digest(image_HWC), view), image_HWC))
    return shown


def resize_to_view(frame_HWC: np.ndarray, view: View) -> np.ndarray:
    """Resize a frame: by averaging when it shrinks, to avoid aliasing, else by interpolation."""
    height, width = frame_HWC.shape[:2]
    if (height, width) == (view.height, view.width):
        return frame_HWC
    shrinks = view.height <= height and view.width <= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame_HWC, (view.width, view.height), interpolation=method))


def frame_size(path: str, frame_names: Sequence[str]) -> tuple[int, int]:
    """Return (height, width) of the first frame, for a data set without it.

    Raises:
        ValueError: The frame cannot be read, as in `read_frames`.
    """
    unsized = Video("", path, tuple(frame_names), 0, 0)
    frames = _load_frames(unsized, [0], 1, DECODERS, TIMEOUT_S)
    height, width = frames[0].shape[:2]
    return height, width


def _check_size(video: Video, index: int, frame_HWC: np.ndarray) -> None:
    height, width = frame_HWC.shape[:2]
    if (height, width) != (video.height, video.width):
        raise ValueError(_wrong_size(video, index, height, width))


def _wrong_size(video: Video, index: int, height: int, width: int) -> str:
    return (
        f"{video.path}: frame {index} is {height} x {width} (height x width), but the masks or "
        f"first frame of the video are {video.height} x {video.width}: use frames and masks of "
        "one release of the data, in one size"
    )


def _load_frames(
    video: Video,
    indices: Sequence[int],
    block: int,
    decoders: Sequence[str],
    timeout_s: float,
) -> dict[int, np.ndarray]:
    """Return frames from the node's store, after decoding the missing ones.

    Args:
        indices: Ascending, distinct frame numbers.
    """
    files: dict[int, str] = {}
    is_folder = Path(video.path).is_dir()
    if is_folder:
        files = {index: _image_file(video, index) for index in indices}
        names = {index: content_name(file) for index, file in files.items()}
    else:
        names = _names_in_video_file(video, indices)

    found = _stored(names)
    if len(found) == len(names):
        return found

    with node_store().lock(video.path):
        # Another process may have stored them while this one waited for the lock.
        found |= _stored(_without(names, found))
        missing = _without(names, found)
        if is_folder:
            found |= _store_images(video, missing, files)
        elif missing and is_image(Path(video.path).name):
            found |= _store_pages(video, missing)
        elif missing:
            found |= _store_decoded(video, list(missing), block, decoders, timeout_s)
    node_store().tidy()
    return found


def _without(
    names: Mapping[int, str],
    found: Mapping[int, np.ndarray],
) -> dict[int, str]:
    return {index: name for index, name in names.items() if index not in found}


def _stored(names: Mapping[int, str]) -> dict[int, np.ndarray]:
    frames = {}
    for index, name in names.items():
        frame_HWC = node_store().get(name)
        if frame_HWC is not None:
            frames[index] = frame_HWC
    return frames


def _store_images(
    video: Video, names: Mapping[int, str], files: Mapping[int, str]
) -> dict[int, np.ndarray]:
    frames = {}
    with node_store().scratch() as scratch:
        file = scratch / "image.npy"
        for index, name in names.items():
            np.save(file, _read_image(video, index, files[index]))
            frames[index] = node_store().put(name, file)
    return frames


def _store_pages(video: Video, names: Mapping[int, str]) -> dict[int, np.ndarray]:
    """Read pictures of an animation, or pages of a TIFF."""
    frames = {}
    numbers = [video.number(index) for index in names]
    with node_store().scratch() as scratch:
        file = scratch / "page.npy"
        pages = read_pages(Path(video.path), numbers)
        for (index, name), page_HWC in zip(names.items(), pages, strict=True):
            np.save(file, page_HWC)
            frames[index] = node_store().put(name, file)
    return frames


def _store_decoded(
    video: Video,
    missing: Sequence[int],
    block: int,
    decoders: Sequence[str],
    timeout_s: float,
) -> dict[int, np.ndarray]:
    """Decode the missing frames, and the other frames of their blocks unless they are stored."""
    store = node_store()
    in_blocks: dict[int, None] = {}
    for index in missing:
        start = index // block * block
        stop = min(start + block, video.num_frames)
        in_blocks |= dict.fromkeys(range(start, stop))

    names = _names_in_video_file(video, list(in_blocks))
    wanted = []
    for index, name in names.items():
        if index in missing or not store.has(name):
            wanted.append(index)

    numbers = [video.number(index) for index in wanted]
    with store.scratch() as scratch:
        decode(
            video.path,
            numbers,
            scratch,
            decoders=decoders,
            timeout_s=timeout_s,
            num_frames=video.num_frames,
            pixels=video.height * video.width or None,
            in_a_row=block > 1,
        )
        frames = {}
        for index, number in zip(wanted, numbers, strict=True):
            frames[index] = store.put(names[index], scratch / f"{number}.npy")
        return frames


def _names_in_video_file(video: Video, indices: Sequence[int]) -> dict[int, str]:
    """Return the names in the store for frames of a video file."""
    if not Path(video.path).is_file():
        raise ValueError(
            f"{video.path}: neither a folder of frames nor a video file: needed for frame "
            f"{indices[0]}; is the data set complete, and its root right (data.root)?"
        )
    content = content_name(video.path)
    return {index: f"{content}-{video.number(index)}" for index in indices}


def _image_file(video: Video, index: int) -> str:
    name = video.frame_names[index]
    file = frame_file(video.path, name)
    if file is None:
        suffix = "" if is_image(name) else FRAME_SUFFIXES[0]
        place = _place(video, index)
        raise ValueError(
            f"{os.path.join(video.path, name)}{suffix}: missing ({place}): extract the frames of "
            "this video again"
        )
    return str(file)


def _read_image(video: Video, index: int, file: str) -> np.ndarray:
    def check_size(height: int, width: int) -> None:
        if video.height and height * width != video.height * video.width:
            raise ValueError(_wrong_size(video, index, height, width))

    try:
        return read_image(Path(file), check_size)
    except ValueError as error:
        raise ValueError(f"{error}; {_place(video, index)}") from error


def _place(video: Video, index: int) -> str:
    return f"frame {index} of {video.num_frames} of video {video.path!r}"
