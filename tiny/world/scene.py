"""Short synthetic videos: flat shapes that come, move, change size, hide each other and go.

Every shape has a colour of its own in its video, so "<colour> <shape>" names exactly one. It is visible only in a
random window and its size peaks at a random moment inside that window, so neither the middle frame nor any other
fixed guess is a good keyframe. In a long video that window is so short that frames taken from all over the video show
the shape once or twice. This file knows no sentence, no file format and no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 112  # pixels
NUM_FRAMES = 24  # of a short video
MIN_AREA = 25  # pixels; a smaller visible rest counts as not visible
MIN_VISIBLE = 5  # frames in which every shape is visible

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "green": (30, 190, 50),
    "blue": (40, 70, 235),
    "yellow": (240, 225, 40),
    "purple": (165, 50, 200),
    "white": (245, 245, 245),
    "orange": (245, 135, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond")
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "stays still")
TRENDS = ("keeps growing", "keeps shrinking", "pulses")
TREND_SHARES = (0.22, 0.22, 0.56)

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_NAMES = tuple(COLOURS)
_AXIS = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
# Drawing fresh noise for each pixel would cost more than all the rest: frames take these tiles in random order.
# Backgrounds lie in 20..160 and noise in -18..18, so adding in uint8 (negative numbers wrapped) never overflows.
_NOISE = (
    np.random.default_rng(20240229)
    .normal(0, 4, (48, SIDE, SIDE, 1))
    .clip(-18, 18)
    .astype(np.int8)
    .view(np.uint8)
)


@dataclass(frozen=True)
class Length:
    """Frames of a video, and the least and the most of them in which a shape is there."""

    num_frames: int
    shortest: int
    longest: int


# Of a long video 16 evenly taken frames are 6 or 7 apart: one or two of them fall into a shape's window.
LENGTHS = {"short": Length(NUM_FRAMES, 8, 13), "long": Length(96, 8, 12)}
SHORT = LENGTHS["short"]


@dataclass(frozen=True)
class Thing:
    """One shape and what it does. Its window is [start, stop)."""

    colour: str
    shape: str
    motion: str
    trend: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A video with everything that is known about it. Boxes hold visible pixels only and are 0 where not visible."""

    frames_FHWC: np.ndarray  # uint8 RGB
    owner_FHW: np.ndarray  # int8: index of the thing seen at a pixel, -1 for the background
    boxes_OF4: np.ndarray  # float32 (x0, y0, x1, y1), x1 and y1 exclusive
    areas_OF: np.ndarray  # int32 visible pixels, 0 below MIN_AREA
    hides_OO: np.ndarray  # float32 [i, j]: largest share of j's outline that i ever covers
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class _Track:
    """Where a thing is in each frame of its window."""

    radius_L: np.ndarray
    centre_L2: np.ndarray


def scene(rng: np.random.Generator, length: Length = SHORT) -> Scene:
    """A random scene in which every thing is visible in at least MIN_VISIBLE frames."""
    while True:
        made = _draw(rng, length)
        if ((made.areas_OF > 0).sum(1) >= MIN_VISIBLE).all():
            return made


def _draw(rng: np.random.Generator, length: Length) -> Scene:
    num = int(rng.integers(3, 6))
    colours = rng.permutation(len(COLOURS))[:num]
    things = tuple(_thing(rng, _NAMES[c], length) for c in colours)
    frames_FHWC = _background(rng, length.num_frames)
    owner_FHW = np.full((length.num_frames, SIDE, SIDE), -1, np.int8)
    hides_OO = np.zeros((num, num), np.float32)
    full_OF = np.zeros((num, length.num_frames), np.int32)
    for index, thing in enumerate(things):  # later things lie in front
        rgb = np.clip(_PALETTE[colours[index]] + rng.normal(0, 6, 3), 0, 255).astype(np.uint8)
        _paint(frames_FHWC, owner_FHW, hides_OO, full_OF, index, thing, _track(rng, thing), rgb)
    boxes_OF4, areas_OF = _measure(owner_FHW, things)
    order = rng.permutation(num)  # so that an index says nothing about depth
    inverse = np.append(np.argsort(order), -1).astype(np.int8)  # the last entry maps -1 to -1
    return Scene(
        frames_FHWC,
        inverse[owner_FHW],
        boxes_OF4[order],
        areas_OF[order],
        hides_OO[np.ix_(order, order)],
        tuple(things[i] for i in order),
    )


def _thing(rng: np.random.Generator, colour: str, length: Length) -> Thing:
    there = int(rng.integers(length.shortest, length.longest + 1))
    latest = length.num_frames - there
    place = (
        rng.random()
    )  # more weight on both ends, else the middle frame would nearly always show the target
    start = 0 if place < 0.2 else latest if place < 0.4 else int(rng.integers(0, latest + 1))
    shape = SHAPES[rng.integers(len(SHAPES))]
    motion = MOTIONS[rng.integers(len(MOTIONS))]
    return Thing(colour, shape, motion, TRENDS[rng.choice(3, p=TREND_SHARES)], start, start + there)


def _track(rng: np.random.Generator, thing: Thing) -> _Track:
    length = thing.stop - thing.start
    peak = {"keeps growing": 1.0, "keeps shrinking": 0.0, "pulses": rng.uniform(0.2, 0.8)}[
        thing.trend
    ]
    t_L = np.linspace(0, 1, length, dtype=np.float32)
    rise_L = np.interp(t_L, (0.0, peak, 1.0) if 0 < peak < 1 else (0.0, 1.0), _heights(peak))
    radius_L = rng.uniform(6.5, 8) + rise_L * rng.uniform(10, 17)
    centre_L2 = rng.uniform(20, SIDE - 20, 2) + np.outer(t_L - 0.5, rng.uniform(-5, 5, 2))
    if thing.motion != "stays still":
        axis = 0 if thing.motion in ("moves left", "moves right") else 1
        way = rng.uniform(40, 62)
        first = rng.uniform(20, SIDE - 20 - way)
        path_L = first + way * t_L
        centre_L2[:, axis] = (
            path_L if thing.motion in ("moves right", "moves down") else path_L[::-1]
        )
    return _Track(radius_L, centre_L2)


def _heights(peak: float) -> tuple[float, ...]:
    return (0.0, 1.0) if peak == 1 else (1.0, 0.0) if peak == 0 else (0.0, 1.0, 0.0)


def _background(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    base_3 = rng.uniform(20, 60, 3)
    across_3 = rng.uniform(0, 50, 3)
    down_3 = rng.uniform(0, 50, 3)
    plain_HWC = (base_3 + _AXIS[None, :, None] * across_3 + _AXIS[:, None, None] * down_3).astype(
        np.uint8
    )
    return plain_HWC + _NOISE[np.resize(rng.permutation(len(_NOISE)), num_frames)]


def _inside(shape: str, x_W: np.ndarray, y_H1: np.ndarray, radius: float) -> np.ndarray:
    if shape == "circle":
        return x_W * x_W + y_H1 * y_H1 < radius * radius
    if shape == "square":
        return np.maximum(np.abs(x_W), np.abs(y_H1)) < 0.9 * radius
    if shape == "triangle":
        return (np.abs(y_H1) < radius) & (np.abs(x_W) < 0.55 * (y_H1 + radius))
    return np.abs(x_W) + np.abs(y_H1) < 1.15 * radius


def _paint(
    frames_FHWC: np.ndarray,
    owner_FHW: np.ndarray,
    hides_OO: np.ndarray,
    full_OF: np.ndarray,
    index: int,
    thing: Thing,
    track: _Track,
    rgb: np.ndarray,
) -> None:
    num = len(hides_OO)
    for frame in range(thing.start, thing.stop):
        radius = float(track.radius_L[frame - thing.start])
        cx, cy = track.centre_L2[frame - thing.start]
        reach = 1.2 * radius + 1
        x0 = max(int(cx - reach), 0)
        x1 = min(int(cx + reach) + 1, SIDE)
        y0 = max(int(cy - reach), 0)
        y1 = min(int(cy + reach) + 1, SIDE)
        x_W = np.arange(x0, x1, dtype=np.float32) + 0.5 - cx
        y_H1 = (np.arange(y0, y1, dtype=np.float32) + 0.5 - cy)[:, None]
        inside = _inside(thing.shape, x_W, y_H1, radius)
        owner_HW = owner_FHW[frame, y0:y1, x0:x1]
        full_OF[index, frame] = inside.sum()
        if index:
            covered_O = np.bincount(owner_HW[inside] + 1, minlength=num + 1)[1:]
            if covered_O.any():
                hides_OO[index] = np.maximum(
                    hides_OO[index], covered_O / np.maximum(full_OF[:, frame], 1)
                )
        owner_HW[inside] = index
        frames_FHWC[frame, y0:y1, x0:x1][inside] = rgb


def _measure(owner_FHW: np.ndarray, things: tuple[Thing, ...]) -> tuple[np.ndarray, np.ndarray]:
    boxes_OF4 = np.zeros((len(things), len(owner_FHW), 4), np.float32)
    areas_OF = np.zeros((len(things), len(owner_FHW)), np.int32)
    for index, thing in enumerate(things):
        span = slice(thing.start, thing.stop)
        mask_LHW = owner_FHW[span] == index
        across_LW = mask_LHW.any(1)
        down_LH = mask_LHW.any(2)
        area_L = mask_LHW.sum((1, 2), dtype=np.int32)
        area_L[area_L < MIN_AREA] = 0
        areas_OF[index, span] = area_L
        box_L4 = np.stack([*_ends(across_LW), *_ends(down_LH)], -1)[:, [0, 2, 1, 3]]
        boxes_OF4[index, span] = np.where(area_L[:, None] > 0, box_L4, 0)
    return boxes_OF4, areas_OF


def _ends(hit_LN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return hit_LN.argmax(1), hit_LN.shape[1] - hit_LN[:, ::-1].argmax(1)
