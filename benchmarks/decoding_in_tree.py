"""Read one video with the package `data` of any tree; used by `benchmarks.decoding --old`.

The tree is the first in PYTHONPATH. Prints the CPU seconds, decoders included, of 16 frames spread
over the video and of all frames from end to end.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


def found(*names: str) -> Any:
    """Return the first of these modules that the tree has."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"no {' or '.join(names)} in this tree")


def cpu_s() -> float:
    """Return the CPU seconds of this process and of all that it started, ended or not."""
    seconds = sum(os.times()[:4])
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            seconds += used.user + used.system
    return seconds


def main(path: str) -> None:
    # Older trees had one module for reading and probing.
    reading = found("data.frames.reading", "data.frames")
    probing = found("data.frames.probing", "data.frames")
    store = found("data.frames.frame_store", "data.frame_store")
    # The folder of the store is then TMPDIR.
    store.SHARED_MEMORY = Path("/none")
    video = probing.probe(path)
    seconds = []
    began = cpu_s()
    reading.read_frames(video, [int((i + 0.5) * video.num_frames / 16) for i in range(16)])
    seconds.append(cpu_s() - began)
    began = cpu_s()
    clip = reading.Clip(video)
    for start in range(0, video.num_frames, 8):
        clip[start : start + 8]
    seconds.append(cpu_s() - began)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1])
