"""Read one video file, as a process of its own: its frames, or facts about it.

    python decode_video.py DECODER PATH PIXELS FOLDER FRAME...
        writes FOLDER/<frame>.npy, uint8 (height, width, 3) RGB, for each frame that exists, and
        prints how many frames the file has
    python decode_video.py facts PATH PIXELS
        prints {"frames", "height", "width", "rate": [n, d]} as JSON

Pictures of more than PIXELS pixels are refused, not decoded.

Frame numbers count pictures in the order of display, whatever their times. They must be ascending
and distinct. A picture marked as lying on its side (phones do this) is turned upright.

decord can dead-lock in native code (decord#373), and then only killing its process helps. It never
frees the frames that it prefetched (decord#157). `data.frames.decoders` starts the process with a
time-out. This file imports nothing of rayvos, so that it starts in a tenth of a second, and holds
one frame at a time.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

# The most pixels of a picture, given on the command line.
max_pixels = 8192 * 4320

# Takes a frame with its number.
Give = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Timeline:
    """The frames of a file by its packets; empty if packets have no times, as in bare H.264.

    Attributes:
        times: Time of each frame in the order of display.
        keys: Numbers of the key frames.
    """

    times: list[int]
    keys: list[int]


def with_pyav(path: str, indices: list[int], give: Give) -> int:
    """Give frames, decoded from the nearest key frame on. Return the number of readable frames.

    A damaged file gives the frames before the damage.
    """
    import av

    timeline = timeline_of(path)
    num_frames = len(timeline.times) or indices[-1] + 1
    missing = {index for index in indices if index < num_frames}
    try:
        for number, frame in _decoded(path, timeline, sorted(missing)):
            if number in missing:
                missing.remove(number)
                give(number, _upright(frame))
    except av.FFmpegError as error:
        print(f"{path}: damaged: {error}", file=sys.stderr)
    return min(missing, default=num_frames)


def with_decord(path: str, indices: list[int], give: Give) -> int:
    """Give frames by decord's own seeking. Return the number of frames.

    decord raises an error for a damaged file and for one that is too short.
    """
    import decord

    # It has no bound of its own.
    with _open(path):
        pass
    reader = decord.VideoReader(path, num_threads=1)
    for index in indices:
        give(index, reader[index].asnumpy())
    return len(reader)


def timeline_of(path: str) -> Timeline:
    """Read the timeline of a file off its packets, without decoding."""
    packets: list[tuple[int, bool]] = []
    with _open(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard and not packet.is_corrupt:
                # A kept packet would keep its part of the file in memory.
                packets.append((packet.pts, packet.is_keyframe))
    times = {time for time, _ in packets}
    if None in times or len(times) < len(packets):
        return Timeline([], [])

    packets.sort()
    keys = [number for number, (_, is_key) in enumerate(packets) if is_key]
    return Timeline([time for time, _ in packets], keys)


def _decoded(
    path: str,
    timeline: Timeline,
    wanted: list[int],
) -> Iterator[tuple[int, Any]]:
    """Yield pictures with their numbers: the wanted ones, and those decoded on the way to them."""
    numbers = {time: number for number, time in enumerate(timeline.times)}
    for stretch in _stretches(timeline.keys, wanted):
        missing = set(stretch.numbers)
        # If a seek lands behind the key frame, read once more from the start.
        for begin in dict.fromkeys([stretch.start, 0]):
            with _open(path) as (container, stream):
                if begin:
                    container.seek(timeline.times[begin], stream=stream)
                for position, frame in enumerate(container.decode(stream)):
                    number = position
                    if timeline.times:
                        number = numbers.get(frame.pts, -1)
                    if number >= 0:
                        missing.discard(number)
                        yield number, frame
                    if number >= stretch.numbers[-1]:
                        break
            if not missing:
                break


@dataclass
class Stretch:
    """Frames to decode in one go, from the key frame `start` on."""

    start: int
    numbers: list[int]


def _stretches(keys: list[int], wanted: list[int]) -> list[Stretch]:
    """Return wanted frames in stretches. A seek inside a stretch would skip nothing."""
    stretches: list[Stretch] = []
    for number in wanted:
        key = 0
        if keys:
            before = bisect_right(keys, number) - 1
            key = keys[max(before, 0)]
        if stretches and key <= stretches[-1].numbers[-1] + 1:
            stretches[-1].numbers.append(number)
        else:
            stretches.append(Stretch(min(key, number), [number]))
    return stretches


def facts(path: str) -> dict[str, Any]:
    """Return the number, size and rate of a file's frames."""
    timeline = timeline_of(path)
    times = timeline.times
    with _open(path) as (container, stream):
        first_HWC = _upright(next(container.decode(stream)))
        rate = stream.average_rate or Fraction(1)
        if len(times) > 1:
            seconds = (times[-1] - times[0]) * stream.time_base
            rate = (len(times) - 1) / seconds
    rate = Fraction(rate).limit_denominator(1001)

    # Packets count the frames, unless the last group of pictures does not decode.
    num_frames = len(times)
    last_group = range(timeline.keys[-1], num_frames) if timeline.keys else range(0)
    if not last_group or not _decodes(path, timeline, last_group):
        num_frames = _count(path)
    return {
        "frames": num_frames,
        "height": first_HWC.shape[0],
        "width": first_HWC.shape[1],
        "rate": [rate.numerator, rate.denominator],
    }


def _decodes(path: str, timeline: Timeline, wanted: range) -> bool:
    import av

    try:
        found = {number for number, _ in _decoded(path, timeline, list(wanted))}
    except av.FFmpegError:
        return False
    return found >= set(wanted)


def _count(path: str) -> int:
    """Count the frames that can be decoded from the start."""
    import av

    number = 0
    with _open(path) as (container, stream):
        try:
            for _ in container.decode(stream):
                number += 1
        except av.FFmpegError as error:
            print(f"{path}: damaged after {number} frames: {error}", file=sys.stderr)
    return number


@contextmanager
def _open(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a file and its first stream of moving pictures."""
    import av

    with av.open(path) as container:
        for stream in container.streams.video:
            # The cover of a song is a stream of its own, but no video.
            is_cover = stream.disposition & type(stream.disposition).attached_pic
            if not is_cover:
                _bound(stream)
                yield container, stream
                return
        kinds = {stream.type for stream in container.streams}
        raise ValueError("no moving pictures in it, only: " + ", ".join(kinds))


def _bound(stream: Any) -> None:
    """Refuse a stream of too large pictures, and those that become too large on the way."""
    if stream.width * stream.height > max_pixels:
        raise ValueError(
            f"its pictures of {stream.height} x {stream.width} (height x width) are more than "
            f"data.max_pixels={max_pixels}: scale it down, or raise data.max_pixels"
        )
    # Codecs pad pictures to whole blocks.
    padded = max_pixels + 64 * (stream.width + stream.height + 64)
    options = {**stream.codec_context.options, "max_pixels": str(padded)}
    stream.codec_context.options = options


def _upright(frame: Any) -> np.ndarray:
    turns = round(frame.rotation / 90)
    frame_HWC = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(frame_HWC, turns))


DECODERS = {"pyav": with_pyav, "decord": with_decord}


def main(argv: list[str]) -> None:
    global max_pixels
    kind, path, pixels, *rest = argv
    max_pixels = int(pixels)
    if kind == "facts":
        print(json.dumps(facts(path)))
        return

    folder, *numbers = rest

    def save(index: int, frame_HWC: np.ndarray) -> None:
        np.save(Path(folder) / f"{index}.npy", frame_HWC)

    indices = [int(number) for number in numbers]
    print(DECODERS[kind](path, indices, save))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as error:
        # The caller shows the last line of stderr. PyAV's errors have the short text in `strerror`.
        sys.exit(str(getattr(error, "strerror", None) or error))
