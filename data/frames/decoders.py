"""Starts the decoders of video files (`data/frames/decode_video.py`), each call a process of its own with a time-out.

PyAV comes first: it was exact on every clip of tests/data/frames/test_decoders.py. decord, asked where PyAV fails, numbers the
frames of transport streams wrongly when they have B-frames. This file knows no cache and no data set.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DECODERS = ("pyav", "decord")  # in the order in which they are tried
TIMEOUT_S = 120.0  # of one call of one decoder

log = logging.getLogger(__name__)


def decode(
    path: str,
    indices: Sequence[int],
    folder: Path,
    *,
    decoders: Sequence[str] = DECODERS,
    timeout_s: float = TIMEOUT_S,
    num_frames: int | None = None,
) -> None:
    """Writes the frames at ascending, distinct `indices` to `folder`/<frame>.npy, uint8 (height, width, 3) RGB.

    By the first decoder that gives all of them; ValueError, with what the first one said, if there is none.
    `num_frames`: how many the video ought to have, for the message.
    """
    problems: list[str] = []
    for decoder in decoders:
        if problems:
            log.warning("%s; trying %s", problems[-1], decoder)
        seen, problem = _run(
            [decoder, path, str(folder), *map(str, indices)], path, decoder, timeout_s
        )
        if not problem and not all((folder / f"{index}.npy").is_file() for index in indices):
            problem = f"{path}: the video stops after frame {seen.strip()} of {num_frames or 'those asked for'}"
        if not problem:
            return
        problems.append(problem)
    raise ValueError(
        f"{problems[0]} (frame {indices[-1]} was needed): the file is damaged or not the one the data set lists; "
        "copy or download it again, or take the video out of the data set"
    )


def facts(path: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What a video file holds: "frames", "height", "width", "rate" ([n, d] frames a second, the mean of varying ones).

    ValueError, in one line, for a file that cannot be read as a video.
    """
    out, problem = _run(["facts", path], path, "pyav", timeout_s)
    if problem:
        raise ValueError(f"{problem}; give a video file, an image, or a folder of images")
    found: dict[str, Any] = json.loads(out)
    return found


def _run(arguments: list[str], path: str, decoder: str, timeout_s: float) -> tuple[str, str]:
    """(what it printed, problem); the problem is "" if it came to an end in time."""
    script = str(Path(__file__).with_name("decode_video.py"))
    command = [sys.executable, "-P", script, *arguments]
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
