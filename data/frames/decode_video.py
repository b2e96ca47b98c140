"""Reads one video file, as a process of its own: its frames, or what it holds.

    python decode_video.py DECODER PATH FOLDER FRAME...   writes FOLDER/<frame>.npy, uint8 (height, width, 3) RGB, for
                                                          each frame that exists; prints how many frames the file has
    python decode_video.py facts PATH                     prints {"frames", "height", "width", "rate": [n, d]} as JSON

Frame numbers count pictures in the order of display, whatever their times; they must be ascending and distinct. A
picture that is marked as lying on its side (phones do that) is turned upright.

A process, because decord can dead-lock in native code (decord#373) and then only killing it helps, and because its
prefetched frames are never given back (decord#157). `data.frames.decoders` starts it with a time-out. It imports nothing of
ours, so that it starts in a tenth of a second, and holds one frame at a time.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

Give = Callable[[int, np.ndarray], None]  # takes a frame by its number
Timeline = tuple[
    list[int], list[int]
]  # time of each frame in the order of display, and the numbers of key frames


def with_pyav(path: str, indices: list[int], give: Give) -> int:
    """Frames from the nearest key frame on; a damaged file yields the frames before the damage."""
    import av

    line = timeline(path)
    frames = len(line[0]) or indices[-1] + 1
    missing = {index for index in indices if index < frames}
    try:
        for number, frame in _decoded(path, line, sorted(missing)):
            if number in missing:
                missing.remove(number)
                give(number, _upright(frame))
    except av.FFmpegError as error:
        print(f"{path}: damaged: {error}", file=sys.stderr)
    return min(missing, default=frames)


def with_decord(path: str, indices: list[int], give: Give) -> int:
    """Frames by decord's own seeking; raises where the file is damaged or shorter than asked."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    for index in indices:
        give(index, reader[index].asnumpy())
    return len(reader)


def timeline(path: str) -> Timeline:
    """Read off the packets, without decoding. Empty where they do not tell, as in a bare H.264 stream."""
    with _open(path) as (container, stream):
        packets = [
            p for p in container.demux(stream) if p.size and not p.is_discard and not p.is_corrupt
        ]
        if any(p.pts is None for p in packets) or len({p.pts for p in packets}) < len(packets):
            return [], []
        packets.sort(key=lambda p: p.pts)
        return [p.pts for p in packets], [i for i, p in enumerate(packets) if p.is_keyframe]


def _decoded(path: str, line: Timeline, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """Pictures with their numbers: all that are wanted, and others that had to be decoded for them."""
    times, keys = line
    numbers = {time: number for number, time in enumerate(times)}
    for start, run in _runs(keys, wanted):
        missing = set(run)
        for begin in dict.fromkeys(
            [start, 0]
        ):  # should a seek land behind the key frame: once more from the start
            with _open(path) as (container, stream):
                if begin:
                    container.seek(times[begin], stream=stream)
                for position, frame in enumerate(container.decode(stream)):
                    number = numbers.get(frame.pts, -1) if times else position
                    if number >= 0:
                        missing.discard(number)
                        yield number, frame
                    if number >= run[-1]:
                        break
            if not missing:
                break


def _runs(keys: list[int], wanted: list[int]) -> list[tuple[int, list[int]]]:
    """Wanted frames with the key frame to start at, put together where a seek between them would skip nothing."""
    runs: list[tuple[int, list[int]]] = []
    for number in wanted:
        key = keys[max(bisect_right(keys, number) - 1, 0)] if keys else 0
        if runs and key <= runs[-1][1][-1] + 1:
            runs[-1][1].append(number)
        else:
            runs.append((min(key, number), [number]))
    return runs


def facts(path: str) -> dict[str, Any]:
    """What a file holds. Frames are counted by packets, and by decoding all where the last group does not decode."""
    times, keys = line = timeline(path)
    with _open(path) as (container, stream):
        height, width = _upright(next(container.decode(stream))).shape[:2]
        rate = stream.average_rate or Fraction(1)
        if len(times) > 1:
            rate = (len(times) - 1) / ((times[-1] - times[0]) * stream.time_base)
    rate = Fraction(rate).limit_denominator(1001)
    frames = (
        len(times) if keys and _decodes(path, line, range(keys[-1], len(times))) else _count(path)
    )
    return {
        "frames": frames,
        "height": height,
        "width": width,
        "rate": [rate.numerator, rate.denominator],
    }


def _decodes(path: str, line: Timeline, wanted: range) -> bool:
    import av

    try:
        return set(wanted) <= {number for number, _ in _decoded(path, line, list(wanted))}
    except av.FFmpegError:
        return False


def _count(path: str) -> int:
    """Frames that can be decoded, from the start."""
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
    """The file and its first stream of moving pictures: the cover of a song is a picture, but no video."""
    import av

    with av.open(path) as container:
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & type(s.disposition).attached_pic
        ]
        if not streams:
            raise ValueError(
                "no moving pictures in it, only: " + ", ".join({s.type for s in container.streams})
            )
        yield container, streams[0]


def _upright(frame: Any) -> np.ndarray:
    return np.ascontiguousarray(
        np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    )


DECODERS = {"pyav": with_pyav, "decord": with_decord}


def main(argv: list[str]) -> None:
    if argv[0] == "facts":
        print(json.dumps(facts(argv[1])))
        return
    decoder, path, folder, *numbers = argv
    indices = [int(n) for n in numbers]
    into = Path(folder)
    print(
        DECODERS[decoder](
            path, indices, lambda index, frame_HWC: np.save(into / f"{index}.npy", frame_HWC)
        )
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (
        OSError,
        ValueError,
    ) as told:  # of PyAV, or our own: the last line that is written is what a user is told
        sys.exit(str(getattr(told, "strerror", None) or told))
