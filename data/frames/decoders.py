"""Decoders of video files: each is a process (`decode_video.py`), with a time-out.

PyAV comes first: its frames are those of a plain decode for every clip of
tests/data/frames/test_drawn_videos.py. decord is asked only where PyAV cannot open a file. What
reads in a row is kept and goes on where it was, so that the time grows with the length of the file
and not with its square.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.printable import printable
from data.bounds import max_pixels
from data.frames.frame_store import content_name, node_store

# In the order in which they are tried.
DECODERS = ("pyav", "decord")
# Seconds without a sign of work after which a decoder is killed.
TIMEOUT_S = 120.0

# The folder above `data`.
ROOT = Path(__file__).parents[2]

log = logging.getLogger(__name__)


class DecoderError(ValueError):
    """A decoder gave up; `opened` if it was at work already."""

    def __init__(self, text: str, opened: bool) -> None:
        super().__init__(text)
        self.opened = opened


class Decoder:
    """A process that has one video file open, at the place of the last request."""

    def __init__(self, kind: str, path: str, pixels: int) -> None:
        self.kind = kind
        self.path = path
        self.opened = False
        command = [sys.executable, "-P", "-m", "data.frames.decode_video"]
        bounds = [str(max_pixels()), str(pixels)]
        # What a library writes there must not fill a pipe that nobody reads.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, kind, path, str(index_file(path)), *bounds],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
        )

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer to a request (`decode_video.py`).

        Raises:
            DecoderError: The process ended, or is silent for too long.
        """
        assert self._process.stdin is not None
        # An ended process says why on its stderr.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = "\n"
        while line == "\n":
            line = self._line(timeout_s)
        if not line:
            raise DecoderError(self._last_words(), self.opened)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._errors.close()

    def _line(self, timeout_s: float) -> str:
        assert self._process.stdout is not None
        silent = threading.Event()

        def end() -> None:
            silent.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, end)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if silent.is_set():
            text = f"{self.path}: {self.kind} gave no frames within {timeout_s:g} s"
            raise DecoderError(text, opened=True)
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {code}"
        return f"{self.path}: {self.kind} cannot decode it: {reason}"


class _Kept:
    """The decoder of the last file that this process read in a row."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = ""
        self._decoder: Decoder | None = None

    def take(self, name: str) -> Decoder | None:
        """Return the decoder of a file to the only caller that may use it now."""
        with self._lock:
            if name != self._name:
                return None
            decoder = self._decoder
            self._name = ""
            self._decoder = None
            return decoder

    def keep(self, name: str, decoder: Decoder) -> None:
        """Keep a decoder, and end the one before."""
        with self._lock:
            before = self._decoder
            self._name = name
            self._decoder = decoder
        if before is not None:
            before.close()


_kept = _Kept()


def decode(
    path: str,
    indices: Sequence[int],
    folder: Path,
    *,
    decoders: Sequence[str] = DECODERS,
    timeout_s: float = TIMEOUT_S,
    num_frames: int | None = None,
    pixels: int | None = None,
    in_a_row: bool = False,
) -> None:
    """Write frames of a video file to `folder`/<frame>.npy, uint8 (height, width, 3) RGB.

    Args:
        indices: Ascending, distinct frame numbers.
        num_frames: Expected number of frames of the video, for the message.
        pixels: The most pixels that the file may announce; by default `data.bounds.max_pixels`.
        in_a_row: The frames behind the last one will be asked for next.

    Raises:
        ValueError: No decoder gives all frames. The message is that of the first one.
    """
    request = {"folder": str(folder), "frames": list(indices)}
    problems: list[str] = []
    for kind in decoders:
        if problems:
            log.warning("%s; trying %s", printable(problems[-1]), kind)
        try:
            answer = _asked(kind, path, request, timeout_s, pixels or max_pixels(), in_a_row)
        except DecoderError as error:
            problems.append(str(error))
            # Another decoder reads what this one cannot open. Behind damage it would only guess.
            if error.opened:
                break
            continue
        if all((folder / f"{number}.npy").is_file() for number in indices):
            return
        expected = num_frames or "those asked for"
        problems.append(f"{path}: the video stops after frame {answer['frames']} of {expected}")
        break
    raise ValueError(
        f"{problems[0]} (frame {indices[-1]} was needed): the file is damaged or not the one the "
        "data set lists; copy or download it again, or take the video out of the data set"
    )


def facts(path: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Return "frames", "height", "width" and "rate" of a video file.

    "rate" is [n, d], n / d frames a second: the mean, if it varies.

    Raises:
        ValueError: The file cannot be read as a video. The message is one line.
    """
    try:
        return _asked("pyav", path, {"facts": True}, timeout_s, max_pixels(), in_a_row=False)
    except DecoderError as error:
        raise ValueError(f"{error}; give a video file, an image, or a folder of images") from error


def times(path: str, timeout_s: float = TIMEOUT_S) -> list[float]:
    """Return the seconds of each frame of a video file; none if the file does not tell them.

    Raises:
        ValueError: The file cannot be read as a video.
    """
    answer = _asked("pyav", path, {"times": True}, timeout_s, max_pixels(), in_a_row=False)
    found: list[float] = answer["times"]
    return found


def _asked(
    kind: str,
    path: str,
    request: dict[str, Any],
    timeout_s: float,
    pixels: int,
    in_a_row: bool,
) -> dict[str, Any]:
    """Return the answer of a decoder, kept from the request before or new."""
    name = f"{kind} {content_name(path)} {pixels} {max_pixels()}"
    decoder = _kept.take(name)
    answer = None
    if decoder is not None:
        # It may have ended itself meanwhile.
        with suppress(DecoderError):
            answer = decoder.ask(request, timeout_s)
        if answer is None:
            decoder.close()
    if answer is None:
        decoder = Decoder(kind, path, pixels)
        try:
            answer = decoder.ask(request, timeout_s)
        except DecoderError:
            decoder.close()
            raise
    assert decoder is not None
    if in_a_row:
        _kept.keep(name, decoder)
    else:
        decoder.close()
    return answer


def index_file(path: str) -> Path:
    """Return where the index of a video file is kept: beside the frames of this node."""
    return node_store().indices / f"{content_name(path)}.npz"


def _environment() -> dict[str, str]:
    """Return an environment in which a process finds this package and no other of its name."""
    paths = [str(ROOT)]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
