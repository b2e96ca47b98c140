"""The index of a video file: which picture is which frame, and from where it can be decoded.

The frames of a file are the pictures of a plain decode (`data.frames.video_file`). The packets of
most files tell them: each is a picture with a time of its own. Such an index is *trusted*, and
frames are decoded from the key frame before them. For H.264, HEVC and AV1 the packets are looked at
and the first pictures decoded; other codecs are decoded once from end to end to see it. Packets
that are no pictures, guessed times or damage make an index untrusted; then every frame is counted
from the start of the file.
"""

from __future__ import annotations

import os
import zipfile
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from data.frames.packets import CHECKS, is_picture
from data.frames.video_file import open_video, pictures, shown_size

# Containers that write down the time of every picture. Others give it in the order of decoding,
# cut to a grid, or not at all, and the library guesses.
TIMED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Pictures at the start to decode, to see whether each packet becomes one.
HEAD = 8
# The time of a picture without one.
NO_TIME = -(1 << 62)
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class PictureIndex:
    """The frames of a file.

    Attributes:
        times_F: Time of each frame in the stream's units; empty if untrusted.
        keys: Numbers of the key frames, ascending; empty if untrusted.
        height: Height of the first picture as it is shown.
        width: Its width.
        frames: Number of frames; -1 if they were not counted yet.
        seconds: From the first frame to the last; 0 if that is not known.
        rate: Frames a second as the header says; 0 if it says none.
    """

    times_F: np.ndarray
    keys: np.ndarray
    height: int
    width: int
    frames: int
    seconds: Fraction
    rate: Fraction

    @property
    def trusted(self) -> bool:
        return self.times_F.size > 0

    @property
    def mean_rate(self) -> Fraction:
        """Frames a second: the mean, if it varies."""
        rate = self.rate or Fraction(1)
        if self.frames > 1 and self.seconds > 0:
            rate = (self.frames - 1) / self.seconds
        return rate.limit_denominator(1001)

    def key_before(self, number: int) -> int:
        """Return the number of the key frame from which a frame is decoded."""
        before = int(np.searchsorted(self.keys, number, "right")) - 1
        return int(self.keys[before]) if before >= 0 else 0


def index_of(
    path: str, file: Path, max_pixels: int, first_pixels: int, tick: Callable[[], None]
) -> PictureIndex:
    """Return the index of a video, read from `file` if it was made before.

    Args:
        tick: Is called now and then, to show that work goes on.

    Raises:
        ValueError, av.FFmpegError: As `open_video`, or no picture can be decoded.
    """
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        return load(file)
    index = build(path, max_pixels, first_pixels, tick)
    save(index, file)
    return index


def build(path: str, max_pixels: int, first_pixels: int, tick: Callable[[], None]) -> PictureIndex:
    """Read the index off the packets of a file, and look at its first pictures."""
    times_F = keys = NOTHING
    with open_video(path, max_pixels, first_pixels) as (container, stream):
        if container.format.name in TIMED:
            times_F, keys = _by_packets(container, stream, tick)
        rate = Fraction(stream.average_rate or 0)
        unit = Fraction(stream.time_base or 0)
        is_known = stream.codec_context.name in CHECKS

    wanted = 1
    if len(times_F):
        wanted = len(times_F) + 1
        if is_known:
            group = int(keys[1]) if len(keys) > 1 else len(times_F)
            wanted = min(group, HEAD)
    times, size = _decoded_times(path, max_pixels, first_pixels, wanted, tick)
    index = PictureIndex(times_F, keys, *size, len(times_F), Fraction(0), rate)
    if not index.trusted or not _same(times, times_F, whole=wanted > len(times_F)):
        return distrusted(index)
    return replace(index, seconds=int(times_F[-1] - times_F[0]) * unit)


def _same(times: array[int], times_F: np.ndarray, whole: bool) -> bool:
    """Return whether the first pictures, or all, are those that the packets promised."""
    if whole and len(times) != len(times_F):
        return False
    return bool(np.array_equal(np.array(times, np.int64), times_F[: len(times)]))


def _by_packets(
    container: Any, stream: Any, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return times and key frames by the packets alone; empty if a packet is doubtful."""
    # Kept packets would keep the whole file in memory.
    times = array("q")
    are_keys = array("b")
    codec = stream.codec_context.name
    extradata = stream.codec_context.extradata or b""
    try:
        for packet in container.demux(stream):
            tick()
            if not packet.size:
                continue
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                return NOTHING, NOTHING
            if codec in CHECKS and not is_picture(memoryview(packet), codec, extradata):
                return NOTHING, NOTHING
            times.append(packet.pts)
            are_keys.append(packet.is_keyframe)
    except av.FFmpegError:
        return NOTHING, NOTHING
    if not times or not are_keys[0]:
        return NOTHING, NOTHING

    times_P = np.array(times, np.int64)
    order = np.argsort(times_P, kind="stable")
    times_F = times_P[order]
    # A picture before the first key frame in display order has lost its start.
    if (np.diff(times_F) <= 0).any() or order[0] != 0:
        return NOTHING, NOTHING
    keys = np.flatnonzero(np.array(are_keys, bool)[order])
    return times_F, keys.astype(np.int64)


def _decoded_times(
    path: str, max_pixels: int, first_pixels: int, wanted: int, tick: Callable[[], None]
) -> tuple[array[int], tuple[int, int]]:
    """Decode the first pictures; return their times, and the size of the first."""
    times = array("q")
    size = None
    with open_video(path, max_pixels, first_pixels) as (container, stream):
        for frame in pictures(container, stream):
            tick()
            size = size or shown_size(frame)
            times.append(NO_TIME if frame.pts is None else frame.pts)
            if len(times) == wanted:
                break
    if size is None:
        raise ValueError("no picture of it can be decoded: copy or download it again")
    # A picture that is missing shows as a time that no packet has.
    while len(times) < wanted and wanted <= HEAD:
        times.append(NO_TIME)
    return times, size


def counted(
    index: PictureIndex, path: str, max_pixels: int, tick: Callable[[], None]
) -> PictureIndex:
    """Return an index with the number of frames, by a plain decode to the end."""
    number = 0
    times: list[int] = []
    with open_video(path, max_pixels) as (container, stream):
        for frame in pictures(container, stream):
            number += 1
            # The first and the last time.
            if frame.pts is not None:
                times = [*times[:1], frame.pts]
            tick()
        unit = Fraction(stream.time_base or 0)
    seconds = Fraction(0)
    if len(times) == 2:
        seconds = (times[1] - times[0]) * unit
    return replace(index, frames=number, seconds=seconds)


def distrusted(index: PictureIndex) -> PictureIndex:
    """Return the index of a file whose packets did not become the pictures that they promised."""
    return replace(index, times_F=NOTHING, keys=NOTHING, frames=-1, seconds=Fraction(0))


def save(index: PictureIndex, file: Path) -> None:
    """Write an index, whole or not at all. A full disk is no reason to stop reading."""
    numbers = [index.height, index.width, index.frames]
    numbers += index.seconds.as_integer_ratio()
    numbers += index.rate.as_integer_ratio()
    scratch = file.with_suffix(f".{os.getpid()}.part")
    try:
        with open(scratch, "wb") as stream:
            np.savez(stream, times=index.times_F, keys=index.keys, numbers=np.array(numbers))
        os.replace(scratch, file)
    except OSError:
        scratch.unlink(missing_ok=True)


def load(file: Path) -> PictureIndex:
    """Read an index.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: There is none, or it is damaged.
    """
    with np.load(file) as held:
        height, width, frames, *ratios = held["numbers"].tolist()
        seconds = Fraction(ratios[0], ratios[1])
        rate = Fraction(ratios[2], ratios[3])
        return PictureIndex(held["times"], held["keys"], height, width, frames, seconds, rate)
