"""A video file as a player shows it: the stream, the pictures of a plain decode, right side up.

A plain decode starts at the first packet and skips what cannot be decoded, as ffmpeg and players
do. Its pictures, in display order, are the frames of the file: picture 0 is frame 0, whatever the
times say. Imports PyAV, so only processes that decode import this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data.frames.turning import turned

# One for all pictures: a frame's own starts threads for each, and they stay as long as the frame.
CONVERTER = VideoReformatter()


@contextmanager
def open_video(path: str, max_pixels: int, first_pixels: int = 0) -> Iterator[tuple[Any, Any]]:
    """Open a file and the stream of moving pictures that players choose.

    Args:
        max_pixels: The most pixels of any picture.
        first_pixels: The most pixels that the stream may announce, if fewer; 0 for `max_pixels`.

    Raises:
        ValueError: No moving pictures, pieces of one picture, or too large ones.
        av.FFmpegError: The file cannot be opened.
    """
    # Titles come in any encoding, and nobody reads them here.
    with av.open(path, metadata_errors="replace") as container:
        stream = _shown_stream(container)
        _bound(stream, max_pixels, first_pixels or max_pixels)
        yield container, stream


def _shown_stream(container: Any) -> Any:
    """Return the stream that players choose."""
    streams = []
    for stream in container.streams.video:
        # The cover of a song is a stream of its own, but no video.
        is_cover = stream.disposition & type(stream.disposition).attached_pic
        if not is_cover:
            streams.append(stream)
    if not streams:
        kinds = {stream.type for stream in container.streams}
        raise ValueError("no moving pictures in it, only: " + ", ".join(sorted(kinds)))

    if all(stream.disposition & type(stream.disposition).dependent for stream in streams):
        raise ValueError(
            f"one picture in {len(streams)} tiles, as phones write HEIC: convert it to JPEG"
        )
    best = container.streams.best("video")
    shown = best if best in streams else streams[0]
    if shown.codec_context is None:
        raise ValueError("its codec is not known: convert it to H.264")
    return shown


def _bound(stream: Any, max_pixels: int, first_pixels: int) -> None:
    """Refuse a stream of too large pictures, and those that become too large on the way."""
    # Codecs pad pictures to whole blocks.
    padding = 64 * (stream.width + stream.height + 64)
    if stream.width * stream.height > min(max_pixels, first_pixels + padding):
        raise ValueError(
            f"its pictures of {stream.height} x {stream.width} (height x width) are more than "
            f"data.max_pixels={min(max_pixels, first_pixels)}: scale it down, or raise "
            "data.max_pixels"
        )
    options = {**stream.codec_context.options, "max_pixels": str(max_pixels + padding)}
    stream.codec_context.options = options


def pictures(container: Any, stream: Any, damages: list[str] | None = None) -> Iterator[Any]:
    """Yield the pictures from here on in display order; what does not decode is skipped.

    Args:
        damages: The errors on the way are added to it.
    """
    if damages is None:
        damages = []
    try:
        for packet in container.demux(stream):
            yield from _decoded(stream, packet, damages)
    except av.FFmpegError as error:
        damages.append(str(error))
        # The file cannot be read any further. What the decoder holds back is shown still.
        yield from _decoded(stream, None, damages)


def _decoded(stream: Any, packet: Any, damages: list[str]) -> list[Any]:
    try:
        return list(stream.codec_context.decode(packet))
    except av.FFmpegError as error:
        damages.append(str(error))
        return []


def turning(frame: Any) -> tuple[bool, bool, bool]:
    """Return how a picture is to be shown: (exchange rows and columns, mirror x, mirror y).

    A display matrix of other angles than quarters counts as the nearest quarter.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), "=i4")[:5].tolist()
    # (x, y) is shown at (a x + c y, b x + d y).
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def shown_size(frame: Any) -> tuple[int, int]:
    """Return (height, width) of a picture as it is shown."""
    exchanged, _, _ = turning(frame)
    if exchanged:
        return frame.width, frame.height
    return frame.height, frame.width


def shown(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a picture as players show it, uint8 (height, width, 3) RGB, upright and unmirrored.

    Args:
        size: (height, width) to scale a picture of another size to.
    """
    exchanged, mirror_x, mirror_y = turning(frame)
    height, width = size or shown_size(frame)
    if exchanged:
        height, width = width, height
    converted = CONVERTER.reformat(frame, width, height, format="rgb24", threads=1)
    return turned(converted.to_ndarray(), exchanged, mirror_x, mirror_y)
