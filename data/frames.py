"""Frames of a video as arrays: read from a folder of images or from a video file, resized and digested for a dialogue.

Decoded frames are kept in a small cache of this process, so the episodes of a group decode a frame once. The cache
knows a frame by its path and number: it does not notice a file that changes. This file knows no data set.
"""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from core.types import Media, Video, View

CACHE_BYTES = 256 << 20  # 200 frames of 480 x 854
DECODERS = ("decord", "pyav")  # of a video file, in the order in which they are tried
SUFFIXES = (".jpg", ".png", ".jpeg")  # of a frame in a folder
TIMEOUT_S = 120.0  # of one call of one decoder

log = logging.getLogger(__name__)


def read_frames(
    video: Video, indices: Sequence[int], *, decoders: Sequence[str] = DECODERS, timeout_s: float = TIMEOUT_S
) -> np.ndarray:
    """The frames `indices`, in that order, repeats allowed: uint8 (n, height, width, 3) RGB.

    ValueError, naming file and frame, for a missing or damaged file, a video shorter than `video.num_frames` says,
    and frames of another size than `video` says.
    """
    wrong = [index for index in indices if not 0 <= index < video.num_frames]
    if wrong:
        raise ValueError(f"{video.path}: frame {wrong[0]} does not exist: the video has {video.num_frames} frames")
    if not len(indices):
        return np.zeros((0, video.height, video.width, 3), np.uint8)
    cached = {index: _cache.get((video.path, index)) for index in sorted(set(indices))}
    frames = {index: frame_HWC for index, frame_HWC in cached.items() if frame_HWC is not None}
    missing = [index for index in cached if index not in frames]
    for index, frame_HWC in zip(missing, _decode(video, missing, decoders, timeout_s), strict=True):
        _check_size(video, index, frame_HWC)
        _cache.put((video.path, index), frame_HWC)
        frames[index] = frame_HWC
    return np.stack([frames[index] for index in indices])  # a copy: the caller may write into it


def show(video: Video, views: Sequence[View]) -> list[tuple[Media, np.ndarray]]:
    """What the policy gets to see: for each view its pixels, uint8 (view.height, view.width, 3), under their digest."""
    frames_nHWC = read_frames(video, [view.frame for view in views])
    pixels = [_resize(frame_HWC, view) for frame_HWC, view in zip(frames_nHWC, views, strict=True)]
    return [(Media(digest(image_HWC), view), image_HWC) for image_HWC, view in zip(pixels, views, strict=True)]


def digest(image_HWC: np.ndarray) -> str:
    """The name of an image: equal for equal pixels of equal shape (BLAKE2b, 128 bits)."""
    assert image_HWC.dtype == np.uint8, f"an image holds uint8, not {image_HWC.dtype}"
    header = repr(image_HWC.shape).encode()
    return hashlib.blake2b(header + np.ascontiguousarray(image_HWC).tobytes(), digest_size=16).hexdigest()


def frame_size(path: str, frame_names: Sequence[str]) -> tuple[int, int]:
    """(height, width) of the first frame, for a data set that does not say. Errors as `read_frames`."""
    unsized = Video("", path, tuple(frame_names), 0, 0)
    height, width = _decode(unsized, [0], DECODERS, TIMEOUT_S)[0].shape[:2]
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
        raise ValueError(
            f"{video.path}: frame {index} is {frame_HWC.shape[0]} x {frame_HWC.shape[1]} (height x width), but the "
            f"masks of the video are {video.height} x {video.width}: use frames and masks of one release of the data"
        )


def _decode(video: Video, indices: list[int], decoders: Sequence[str], timeout_s: float) -> list[np.ndarray]:
    """Frames at ascending, distinct `indices`."""
    if not indices:
        return []
    path = Path(video.path)
    if path.is_dir():
        return [_read_image(video, index) for index in indices]
    if not path.is_file():
        raise ValueError(
            f"{path}: neither a folder of frames nor a video file: needed for frame {indices[0]}; "
            "is the data set complete, and its root right (data.root)?"
        )
    return _read_file(video, indices, decoders, timeout_s)


def _read_image(video: Video, index: int) -> np.ndarray:
    stem = Path(video.path) / video.frame_names[index]
    path = next((p for p in (stem.with_name(stem.name + suffix) for suffix in SUFFIXES) if p.is_file()), None)
    where = f"frame {index} of {video.num_frames} of video {video.path!r}"
    if path is None:
        raise ValueError(f"{stem}{SUFFIXES[0]}: missing ({where}): extract the frames of this video again")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: not a readable image ({where}): extract the frames of this video again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_file(video: Video, indices: list[int], decoders: Sequence[str], timeout_s: float) -> list[np.ndarray]:
    """The first decoder that gives every frame; what the last one says is what the user is told."""
    problem = ""
    for decoder in decoders:
        if problem:
            log.warning("%s; trying %s", problem, decoder)
        seen, frames_nHWC, problem = _run_decoder(decoder, video.path, indices, timeout_s)
        if not problem and len(frames_nHWC) < len(indices):
            problem = f"{video.path}: the video stops after frame {seen} of {video.num_frames}"
        if not problem:
            return list(frames_nHWC)
    raise ValueError(
        f"{problem} (frame {indices[-1]} was needed): the file is damaged or not the one the data set lists; "
        "copy or download it again, or take the video out of the data set"
    )


def _run_decoder(decoder: str, path: str, indices: list[int], timeout_s: float) -> tuple[int, np.ndarray, str]:
    """(frames seen, frames, problem); the problem is "" if the decoder came to an end in time."""
    script = str(Path(__file__).with_name("decode_video.py"))
    command = [sys.executable, "-P", script, decoder, path, *map(str, indices)]
    nothing = np.zeros((0, 0, 0, 3), np.uint8)
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return 0, nothing, f"{path}: {decoder} gave no frames within {timeout_s:g} s"
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        return 0, nothing, f"{path}: {decoder} cannot decode it: {lines[-1]}"
    out = io.BytesIO(done.stdout)
    return int(np.load(out)), np.load(out), ""


class _FrameCache:
    """Decoded frames, the least recently used ones dropped; used from several threads of an actor."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self._frames: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> np.ndarray | None:
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
            return self._frames.get(key)

    def put(self, key: tuple[str, int], frame_HWC: np.ndarray) -> None:
        with self._lock:
            if key in self._frames:
                return
            self._frames[key] = frame_HWC.copy()  # not a slice that keeps a whole decoded batch alive
            self.used += frame_HWC.nbytes
            while self.used > self.capacity:
                self.used -= self._frames.popitem(last=False)[1].nbytes


_cache = _FrameCache(CACHE_BYTES)
