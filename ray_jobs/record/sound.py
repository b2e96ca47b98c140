"""The sound of a video, copied into its overlay as AAC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

# What every player of MP4 plays.
CODEC = "aac"


class Sound:
    """The sound of a file on its way into another one, piece by piece beside the pictures."""

    def __init__(self, path: str, out: Any, start_s: float) -> None:
        """Open the file, and add a stream to `out`.

        Args:
            start_s: The time of the first picture in the file; sound before it is left out.
        """
        self._source = av.open(path, metadata_errors="replace")
        self._out = out
        self._start_s = start_s
        heard = self._source.streams.best("audio")
        assert heard is not None, "`has_sound` was asked"
        self._stream = out.add_stream(CODEC, rate=heard.rate or 48_000)
        self._stream.layout = "stereo"
        self._pieces = self._decoded(heard)
        self._next: Any = None

    def until(self, seconds: float) -> None:
        """Write what is heard before a time from the first picture on."""
        while True:
            if self._next is None:
                self._next = next(self._pieces, None)
            if self._next is None or self._next.time - self._start_s > seconds:
                return
            self._write(self._next)
            self._next = None

    def close(self) -> None:
        """Write what the encoder holds back, and close the source."""
        self._out.mux(self._stream.encode(None))
        self._source.close()

    def _decoded(self, heard: Any) -> Iterator[Any]:
        for packet in self._source.demux(heard):
            try:
                pieces = packet.decode()
            # A damaged piece is a gap.
            except av.FFmpegError:
                continue
            for piece in pieces:
                if piece.time is not None and piece.time >= self._start_s:
                    yield piece

    def _write(self, piece: Any) -> None:
        piece.pts = round((piece.time - self._start_s) / piece.time_base)
        self._out.mux(self._stream.encode(piece))


def has_sound(path: str) -> bool:
    """Return whether a file has sound that can be decoded."""
    try:
        with av.open(path, metadata_errors="replace") as source:
            heard = source.streams.best("audio")
            return heard is not None and heard.codec_context is not None
    except (av.FFmpegError, OSError):
        return False
