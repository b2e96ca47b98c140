"""A synthetic scene as a video file, to try things on.

    python -m tiny.world.clip scene.mp4 --seconds 10

The frames of the scene are stretched over the time, and its pixels to larger squares.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np

from tiny.world.scene import Scene, random_scene


def write_clip(
    path: Path,
    seconds: int,
    seed: int = 3,
    side: int = 480,
    fps: int = 24,
    group: int = 250,
) -> Scene:
    """Write a random scene as H.264 of side x side pixels and return the scene.

    Args:
        group: Frames from one key frame of the codec to the next.
    """
    scene = random_scene(np.random.default_rng(seed))
    num_frames = seconds * fps
    # Nearest pixels of the scene, for rows and columns alike.
    nearest = np.arange(side) * scene.frames_FHWC.shape[1] // side

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"g": str(group)})
        stream.width = side
        stream.height = side
        stream.pix_fmt = "yuv420p"
        for i in range(num_frames):
            frame_HWC = scene.frames_FHWC[i * len(scene.frames_FHWC) // num_frames]
            image_HWC = np.ascontiguousarray(frame_HWC[nearest][:, nearest])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")))
        # Nothing more comes: the encoder hands out the frames it still holds.
        file.mux(stream.encode())
    return scene


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a synthetic video and print its content.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()

    scene = write_clip(options.path, options.seconds, options.seed)
    for thing in scene.things:
        print(f"the {thing.name} {thing.motion}, {thing.trend}")


if __name__ == "__main__":
    main()
