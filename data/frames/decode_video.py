"""Read one video file, as a process of its own: its frames, or facts about it.

    python -m data.frames.decode_video DECODER PATH INDEX PIXELS FIRST_PIXELS

DECODER is pyav or decord, INDEX the file that keeps the index of PATH. Pictures of more than PIXELS
pixels are refused, not decoded, and so is a file that announces more than FIRST_PIXELS.

Each line of the input is a request in JSON, and each is answered by a line of JSON:

    {"folder": F, "frames": [3, 4]}   writes F/<frame>.npy, uint8 (height, width, 3) RGB, for each
                                      frame that exists; answers {"frames": N} of the file
    {"facts": true}                   answers {"frames", "height", "width", "rate": [n, d]}
    {"times": true}                   answers {"times": [seconds of each frame]}, or [] if the file
                                      does not tell them

Frame numbers are ascending and distinct. Later requests go on where the last one ended, so a file
is read in a row in one pass, whatever its seek points. A process without requests ends itself. At
work it writes an empty line each second: silence is a hang.

decord can dead-lock in native code (decord#373), and then only killing its process helps. It never
frees the frames that it prefetched (decord#157). `data.frames.decoders` starts the process with a
time-out. It holds one frame at a time.
"""

from __future__ import annotations

import gc
import json
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from data.frames.picture_index import PictureIndex, counted, distrusted, index_of, save
from data.frames.video_file import open_video, pictures, shown
from data.memory import bound

# A damaged file may announce a packet of any size. What a picture needs: references, RGB, copies.
MEMORY_MB = 512
BYTES_PER_PIXEL = 64
# Seconds to wait for another request.
IDLE_S = 30.0

# Takes a frame with its number.
Give = Callable[[int, np.ndarray], None]


class MissingPictureError(Exception):
    """A trusted index promised a picture that does not come out."""


class PyavReader:
    """Frames of a file through its index, by PyAV."""

    def __init__(self, path: str, index_file: Path, max_pixels: int, first_pixels: int) -> None:
        self.path = path
        self.index_file = index_file
        self.max_pixels = max_pixels
        self.index = index_of(path, index_file, max_pixels, first_pixels, _tick)
        self._open = ExitStack()
        # The pictures from here on with their numbers, and the number of the last one.
        self._coming: Iterator[tuple[int, Any]] = iter(())
        self._at = -1

    def give(self, numbers: list[int], give: Give) -> int:
        """Give the frames that exist. Return the number of frames of the file."""
        try:
            return self._give(numbers, give)
        except MissingPictureError:
            self._distrust()
            return self._give(numbers, give)

    def facts(self) -> dict[str, Any]:
        """Return the number, size and rate of the file's frames."""
        if self.index.trusted and not self._ends_well():
            self._distrust()
        if self.index.frames < 0:
            self._keep(counted(self.index, self.path, self.max_pixels, _tick))
        index = self.index
        rate = index.mean_rate
        return {
            "frames": index.frames,
            "height": index.height,
            "width": index.width,
            "rate": [rate.numerator, rate.denominator],
        }

    def times(self) -> list[float]:
        """Return the seconds of each frame; none where the packets do not tell them."""
        with open_video(self.path, self.max_pixels) as (_, stream):
            unit = float(stream.time_base or 0)
        return [round(time * unit, 6) for time in self.index.times_F.tolist()]

    def _give(self, numbers: list[int], give: Give) -> int:
        size = (self.index.height, self.index.width)
        for number in numbers:
            if 0 <= self.index.frames <= number:
                break
            frame = self._picture(number)
            if frame is None:
                # The file ended before, so the last picture has the last number.
                self._keep(replace(self.index, frames=self._at + 1))
                break
            give(number, shown(frame, size))
        if self.index.frames >= 0:
            return self.index.frames
        return self._at + 1

    def _picture(self, number: int) -> Any | None:
        """Return a picture; None if an untrusted file ends before."""
        if not self._is_on_the_way(number):
            self._start(self.index.key_before(number))
        for at, frame in self._coming:
            _tick()
            self._at = at
            if at == number:
                return frame
            if at > number:
                break
        if self.index.trusted:
            raise MissingPictureError
        return None

    def _is_on_the_way(self, number: int) -> bool:
        """Return whether decoding on reaches a picture, and no seek would come nearer to it."""
        return 0 <= self._at < number and self.index.key_before(number) <= self._at + 1

    def _start(self, key: int) -> None:
        """Open the file anew and go to a key frame."""
        self._open.close()
        opened = open_video(self.path, self.max_pixels)
        container, stream = self._open.enter_context(opened)
        if key:
            container.seek(int(self.index.times_F[key]), stream=stream)
        self._at = -1
        self._coming = self._numbered(pictures(container, stream))

    def _numbered(self, found: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """Yield pictures with their numbers."""
        if not self.index.trusted:
            yield from enumerate(found)
            return
        times_F = self.index.times_F
        for frame in found:
            if frame.pts is None:
                raise MissingPictureError
            number = int(np.searchsorted(times_F, frame.pts))
            if number < len(times_F) and times_F[number] == frame.pts:
                yield number, frame

    def _ends_well(self) -> bool:
        """Return whether the pictures of the last group all come out: a cut file loses them."""
        first = int(self.index.keys[-1])
        try:
            for number in range(first, self.index.frames):
                self._picture(number)
        except MissingPictureError:
            return False
        return True

    def _distrust(self) -> None:
        self._open.close()
        self._at = -1
        self._keep(distrusted(self.index))

    def _keep(self, index: PictureIndex) -> None:
        self.index = index
        save(index, self.index_file)


class DecordReader:
    """Frames of a file by decord, in a row from the start: its seeking is not exact."""

    def __init__(self, path: str, index_file: Path, max_pixels: int, first_pixels: int) -> None:
        import decord

        # It has no bound of its own.
        with open_video(path, max_pixels, first_pixels):
            pass
        self._video = decord.VideoReader(path, num_threads=1)
        self._at = 0

    def give(self, numbers: list[int], give: Give) -> int:
        """Give frames. Return the number of frames of the file."""
        if numbers[0] < self._at:
            self._video.seek(0)
            self._at = 0
        for number in numbers:
            while self._at <= number:
                frame_HWC = self._video.next()
                self._at += 1
                _tick()
            give(number, frame_HWC.asnumpy())
        return len(self._video)


READERS: dict[str, type[PyavReader] | type[DecordReader]] = {
    "pyav": PyavReader,
    "decord": DecordReader,
}


_ticked = time.monotonic()


def _tick() -> None:
    """Show that the process is at work, once a second."""
    global _ticked
    if time.monotonic() - _ticked > 1:
        _ticked = time.monotonic()
        print(flush=True)


def main(argv: list[str]) -> None:
    kind, path, index_file, pixels, first_pixels = argv
    bound(MEMORY_MB + BYTES_PER_PIXEL * int(pixels) // 2**20)
    reader = READERS[kind](path, Path(index_file), int(pixels), int(first_pixels))
    # The collector looks at the pictures alone.
    gc.freeze()
    while select.select([sys.stdin], [], [], IDLE_S)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        print(json.dumps(_answer(reader, request)), flush=True)


def _answer(reader: PyavReader | DecordReader, request: dict[str, Any]) -> dict[str, Any]:
    if "facts" in request:
        assert isinstance(reader, PyavReader)
        return reader.facts()
    if "times" in request:
        assert isinstance(reader, PyavReader)
        return {"times": reader.times()}

    folder = Path(request["folder"])

    def write(number: int, frame_HWC: np.ndarray) -> None:
        np.save(folder / f"{number}.npy", frame_HWC)
        # A picture that was asked for its side data refers to itself. Only the last one is needed.
        gc.collect()

    return {"frames": reader.give(request["frames"], write)}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError, av.FFmpegError) as error:
        # The caller shows the last line of stderr. PyAV's errors have the short text in `strerror`.
        sys.exit(str(getattr(error, "strerror", None) or error))
