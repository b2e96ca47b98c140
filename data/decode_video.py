"""Decodes frames of one video file, as a process of its own: `python decode_video.py DECODER PATH FRAME...`.

Writes two arrays (numpy's .npy format) to standard output: how many frames the file has as far as it was read, and the
frames asked for that exist, uint8 (n, height, width, 3) RGB. Frame numbers must be ascending and distinct.

A process, because decord can dead-lock in native code (decord#373) and then only killing it helps, and because its
prefetched frames are never given back (decord#157). `data.frames` starts it with a time-out. It imports nothing of
ours, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

import numpy as np


def with_decord(path: str, indices: list[int]) -> tuple[int, np.ndarray]:
    """Frames by seeking to key frames; raises where the file is damaged or shorter than asked."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return len(reader), reader.get_batch(indices).asnumpy()


def with_pyav(path: str, indices: list[int]) -> tuple[int, np.ndarray]:
    """Frames by decoding from the start; a damaged file yields the frames before the damage."""
    import av

    wanted, frames, seen = set(indices), [], 0
    with av.open(path) as container:
        try:
            for frame in container.decode(video=0):
                if seen in wanted:
                    frames.append(frame.to_ndarray(format="rgb24"))
                seen += 1
                if len(frames) == len(wanted):
                    break
        except av.FFmpegError as error:
            print(f"{path}: damaged after frame {seen}: {error}", file=sys.stderr)
    return seen, np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)


DECODERS = {"decord": with_decord, "pyav": with_pyav}


def main(decoder: str, path: str, indices: list[int], out: BinaryIO) -> None:
    seen, frames_nHWC = DECODERS[decoder](path, indices)
    np.save(out, np.array(seen))
    np.save(out, frames_nHWC)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(index) for index in sys.argv[3:]], sys.stdout.buffer)
