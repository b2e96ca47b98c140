"""Boxes and frame numbers. Boxes are (x0, y0, x1, y1), x1 and y1 exclusive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]

# How a policy writes places in an image: in its pixels, or in thousandths of its sides.
Coordinates = Literal["pixels", "thousandths"]


@dataclass(frozen=True)
class Grid:
    """The numbers in which a policy writes places in one image.

    Everything else in the program is in pixels: answers pass through `to_pixels` where they are
    read, demonstrations through `from_pixels` where they are written.

    Attributes:
        hw: height and width of the image, as shown to the policy.
        coordinates: unit of the numbers.
    """

    hw: tuple[int, int]
    coordinates: Coordinates = "pixels"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in the policy's numbers."""
        return self.hw if self.coordinates == "pixels" else (1000, 1000)

    def to_pixels(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Return x, y, x, y, ... as the policy writes them in pixels of the image."""
        return _scaled(numbers, self.size, self.hw)

    def from_pixels(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Return x, y, x, y, ... in pixels of the image in the policy's numbers, not rounded."""
        return _scaled(numbers, self.hw, self.size)


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


def _scaled(
    numbers: Sequence[float], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> tuple[float, ...]:
    """Scale x, y, x, y, ... from one size (height, width) to another."""
    if from_hw == to_hw:
        return tuple(numbers)
    scaled = []
    for place, number in enumerate(numbers):
        # Even places are x, along the width.
        side = 1 - place % 2
        scaled.append(number * to_hw[side] / from_hw[side])
    return tuple(scaled)
