"""Decoders of video files: each call starts `decode_video.py` as a process, with a time-out.

PyAV comes first: it was exact on every clip of tests/data/frames/test_decoders.py. decord is the
second choice; it numbers the frames of transport streams wrongly if they have B-frames.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.printable import printable
from data.bounds import max_pixels

# In the order in which they are tried.
DECODERS = ("pyav", "decord")
# Seconds for one call of one decoder.
TIMEOUT_S = 120.0

log = logging.getLogger(__name__)


def decode(
    path: str,
    indices: Sequence[int],
    folder: Path,
    *,
    decoders: Sequence[str] = DECODERS,
    timeout_s: float = TIMEOUT_S,
    num_frames: int | None = None,
    pixels: int | None = None,
) -> None:
    """Write frames of a video file to `folder`/<frame>.npy, uint8 (height, width, 3) RGB.

    The first decoder with all of them is used.

    Args:
        indices: Ascending, distinct frame numbers.
        num_frames: Expected number of frames of the video, for the message.
        pixels: The most pixels of a frame; by default `data.bounds.max_pixels`.

    Raises:
        ValueError: No decoder gives all frames. The message is that of the first one.
    """
    problems: list[str] = []
    bound = str(pixels or max_pixels())
    for decoder in decoders:
        if problems:
            log.warning("%s; trying %s", printable(problems[-1]), decoder)
        numbers = [str(index) for index in indices]
        arguments = [decoder, path, bound, str(folder), *numbers]
        output, problem = _run(arguments, path, decoder, timeout_s)
        if not problem and not all((folder / f"{number}.npy").is_file() for number in numbers):
            expected = num_frames or "those asked for"
            problem = f"{path}: the video stops after frame {output.strip()} of {expected}"
        if not problem:
            return
        problems.append(problem)
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
    output, problem = _run(["facts", path, str(max_pixels())], path, "pyav", timeout_s)
    if problem:
        raise ValueError(f"{problem}; give a video file, an image, or a folder of images")
    found: dict[str, Any] = json.loads(output)
    return found


def _run(
    arguments: list[str],
    path: str,
    decoder: str,
    timeout_s: float,
) -> tuple[str, str]:
    """Return (output, problem) of the process; the problem is "" if it ends well and in time."""
    script = Path(__file__).with_name("decode_video.py")
    command = [sys.executable, "-P", str(script), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return "", f"{path}: {decoder} gave no frames within {timeout_s:g} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return "", f"{path}: {decoder} cannot decode it: {lines[-1]}"
    return done.stdout, ""
