"""A scene of the generator as a video file, to try things on: `python -m tiny.world.clip scene.mp4 --seconds 10`.

The scene's frames are stretched over the time, and its pixels to squares. This file knows no sentence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np

from tiny.world.scene import Scene, scene


def write_clip(
    path: Path, seconds: int, seed: int = 3, side: int = 480, fps: int = 24, group: int = 250
) -> Scene:
    """Writes `seconds` of H.264, side x side pixels, a key frame every `group` frames; returns the scene."""
    made = scene(np.random.default_rng(seed))
    near = np.arange(side) * made.frames_FHWC.shape[1] // side
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"g": str(group)})
        stream.width = side
        stream.height = side
        stream.pix_fmt = "yuv420p"
        for i in range(seconds * fps):
            image_HWC = made.frames_FHWC[i * len(made.frames_FHWC) // (seconds * fps)][near][
                :, near
            ]
            file.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
                )
            )
        file.mux(stream.encode())
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes a synthetic video, and prints what is in it."
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    for thing in write_clip(given.path, given.seconds, given.seed).things:
        print(f"the {thing.name} {thing.motion}, {thing.trend}")


if __name__ == "__main__":
    main()
