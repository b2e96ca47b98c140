"""Boxes and frame numbers. Boxes are (x0, y0, x1, y1), x1 and y1 exclusive; this file knows no masks and no files."""

from __future__ import annotations

Box = tuple[float, float, float, float]


def scale_box(box: Box, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Box:
    """The box in an image resized from (height, width) `from_hw` to `to_hw`; not rounded, not clipped."""
    sy = to_hw[0] / from_hw[0]
    sx = to_hw[1] / from_hw[1]
    x0, y0, x1, y1 = box
    return (x0 * sx, y0 * sy, x1 * sx, y1 * sy)


def uniform_frames(num_frames: int, n: int) -> list[int]:
    """n frame numbers spread evenly over [0, num_frames), ascending; all of them when there are no more than n.

    Frame i is the middle of the i-th of n equal parts, so no part of the video is favoured and none repeats.
    """
    assert num_frames > 0, f"{n} frames of {num_frames}"
    assert n > 0, f"{n} frames of {num_frames}"
    if n >= num_frames:
        return list(range(num_frames))
    return [(2 * i + 1) * num_frames // (2 * n) for i in range(n)]
