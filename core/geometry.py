"""Boxes and frame numbers. Boxes are (x0, y0, x1, y1), x1 and y1 exclusive."""

from __future__ import annotations

Box = tuple[float, float, float, float]


def scale_box(box: Box, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Box:
    """Return the box in an image resized from (height, width) `from_hw` to `to_hw`.

    The result is neither rounded nor clipped.
    """
    x0, y0, x1, y1 = box
    scale_y = to_hw[0] / from_hw[0]
    scale_x = to_hw[1] / from_hw[1]
    return (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)


def uniform_frames(num_frames: int, n: int) -> list[int]:
    """Return n frame numbers spread evenly over [0, num_frames), ascending, without repeats.

    Frame i is the middle of the i-th of n equal parts, so no part of the video is favoured. A video
    of n frames or fewer is returned whole.
    """
    assert num_frames > 0, f"a video of {num_frames} frames"
    assert n > 0, f"{n} frames of {num_frames}"
    if n >= num_frames:
        return list(range(num_frames))
    return [(2 * i + 1) * num_frames // (2 * n) for i in range(n)]
