"""Short synthetic videos: flat shapes that come, move, change size, hide each other and go.

Every shape has a colour of its own in its video, so "<colour> <shape>" names exactly one.
It is visible only in a random window, and its size peaks at a random moment inside that window.
So neither the middle frame nor any other fixed guess is a good keyframe. In a long video the
window is so short that frames sampled from all over the video show the shape once or twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Pixels on each side of a video, and frames of a short one.
SIDE = 112
NUM_FRAMES = 24
# A visible rest of fewer pixels counts as not visible.
MIN_AREA = 25
# Every shape is visible in at least this many frames.
MIN_VISIBLE = 5

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

# Drawing fresh noise for each pixel would cost more than all the rest, so frames take these tiles
# in random order. Backgrounds lie in 20..160 and noise in -18..18, so adding in uint8 (negative
# numbers wrapped) never overflows.
_NOISE = (
    np.random.default_rng(20240229)
    .normal(0, 4, (48, SIDE, SIDE, 1))
    .clip(-18, 18)
    .astype(np.int8)
    .view(np.uint8)
)


@dataclass(frozen=True)
class Length:
    """Frames of a video, and the fewest and the most of them in a shape's window."""

    num_frames: int
    shortest: int
    longest: int


# 16 evenly sampled frames of a long video are 6 or 7 apart: one or two fall into a shape's window.
LENGTHS = {"short": Length(NUM_FRAMES, 8, 13), "long": Length(96, 8, 12)}
SHORT = LENGTHS["short"]


@dataclass(frozen=True)
class Thing:
    """One shape and its behaviour. Its window is [start, stop)."""

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
    """A video with all its ground truth.

    Attributes:
        frames_FHWC: uint8 RGB.
        owner_FHW: int8 index of the visible thing at each pixel; -1 for the background.
        boxes_OF4: float32 (x0, y0, x1, y1) of the visible pixels, x1 and y1 exclusive; 0 in frames
            without any.
        areas_OF: int32 visible pixels; 0 below MIN_AREA.
        hides_OO: float32; [i, j] is the largest share of j's outline that i ever covers.
        things: the shapes, in random order.
    """

    frames_FHWC: np.ndarray
    owner_FHW: np.ndarray
    boxes_OF4: np.ndarray
    areas_OF: np.ndarray
    hides_OO: np.ndarray
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class _Path:
    """Size and place of a thing in each frame of its window."""

    radius_L: np.ndarray
    centre_L2: np.ndarray


def random_scene(rng: np.random.Generator, length: Length = SHORT) -> Scene:
    """Return a random scene in which every thing is visible in at least MIN_VISIBLE frames."""
    while True:
        scene = _compose(rng, length)
        visible_frames_O = (scene.areas_OF > 0).sum(1)
        if (visible_frames_O >= MIN_VISIBLE).all():
            return scene


def _compose(rng: np.random.Generator, length: Length) -> Scene:
    num_things = int(rng.integers(3, 6))
    colours = rng.permutation(len(COLOURS))[:num_things]
    things = tuple(_random_thing(rng, _NAMES[colour], length) for colour in colours)

    # Later things lie in front.
    canvas = _Canvas(_background(rng, length.num_frames), num_things)
    for index, thing in enumerate(things):
        rgb = _PALETTE[colours[index]] + rng.normal(0, 6, 3)
        path = _random_path(rng, thing)
        canvas.paint(index, thing, path, np.clip(rgb, 0, 255).astype(np.uint8))
    boxes_OF4, areas_OF = _measure(canvas.owner_FHW, things)

    # Shuffled, so that an index says nothing about depth. The last entry maps -1 to -1.
    order = rng.permutation(num_things)
    new_index = np.append(np.argsort(order), -1).astype(np.int8)
    return Scene(
        frames_FHWC=canvas.frames_FHWC,
        owner_FHW=new_index[canvas.owner_FHW],
        boxes_OF4=boxes_OF4[order],
        areas_OF=areas_OF[order],
        hides_OO=canvas.hides_OO[np.ix_(order, order)],
        things=tuple(things[i] for i in order),
    )


def _random_thing(rng: np.random.Generator, colour: str, length: Length) -> Thing:
    window = int(rng.integers(length.shortest, length.longest + 1))
    latest = length.num_frames - window

    # Both ends get extra weight, else the middle frame would nearly always show the target.
    place = rng.random()
    if place < 0.2:
        start = 0
    elif place < 0.4:
        start = latest
    else:
        start = int(rng.integers(0, latest + 1))

    shape = SHAPES[rng.integers(len(SHAPES))]
    motion = MOTIONS[rng.integers(len(MOTIONS))]
    trend = TRENDS[rng.choice(3, p=TREND_SHARES)]
    return Thing(colour, shape, motion, trend, start, start + window)


def _random_path(rng: np.random.Generator, thing: Thing) -> _Path:
    t_L = np.linspace(0, 1, thing.stop - thing.start, dtype=np.float32)

    # The peak of a pulse is drawn for every trend: all draws after it keep their place.
    pulse_peak = rng.uniform(0.2, 0.8)
    if thing.trend == "keeps growing":
        rise_L = np.interp(t_L, (0.0, 1.0), (0.0, 1.0))
    elif thing.trend == "keeps shrinking":
        rise_L = np.interp(t_L, (0.0, 1.0), (1.0, 0.0))
    else:
        rise_L = np.interp(t_L, (0.0, pulse_peak, 1.0), (0.0, 1.0, 0.0))
    radius_L = rng.uniform(6.5, 8) + rise_L * rng.uniform(10, 17)

    # Every thing drifts a little; a moving one crosses a good part of the picture on one axis.
    centre_2 = rng.uniform(20, SIDE - 20, 2)
    centre_L2 = centre_2 + np.outer(t_L - 0.5, rng.uniform(-5, 5, 2))
    if thing.motion != "stays still":
        axis = 0 if thing.motion in ("moves left", "moves right") else 1
        distance = rng.uniform(40, 62)
        first = rng.uniform(20, SIDE - 20 - distance)
        along_L = first + distance * t_L
        if thing.motion in ("moves left", "moves up"):
            along_L = along_L[::-1]
        centre_L2[:, axis] = along_L
    return _Path(radius_L, centre_L2)


def _background(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    base_3 = rng.uniform(20, 60, 3)
    across_3 = rng.uniform(0, 50, 3)
    down_3 = rng.uniform(0, 50, 3)
    gradient_HWC = base_3 + _AXIS[None, :, None] * across_3 + _AXIS[:, None, None] * down_3
    tiles_F = np.resize(rng.permutation(len(_NOISE)), num_frames)
    return gradient_HWC.astype(np.uint8) + _NOISE[tiles_F]


class _Canvas:
    """The pixels of a scene while its things are painted, back to front."""

    def __init__(self, background_FHWC: np.ndarray, num_things: int) -> None:
        num_frames = len(background_FHWC)
        self.frames_FHWC = background_FHWC
        self.owner_FHW = np.full((num_frames, SIDE, SIDE), -1, np.int8)
        self.hides_OO = np.zeros((num_things, num_things), np.float32)
        # Pixels of each outline, hidden or not.
        self.full_OF = np.zeros((num_things, num_frames), np.int32)

    def paint(self, index: int, thing: Thing, path: _Path, rgb: np.ndarray) -> None:
        for frame in range(thing.start, thing.stop):
            radius = float(path.radius_L[frame - thing.start])
            cx, cy = path.centre_L2[frame - thing.start]

            # Only the square around the shape is touched.
            reach = 1.2 * radius + 1
            x0 = max(int(cx - reach), 0)
            x1 = min(int(cx + reach) + 1, SIDE)
            y0 = max(int(cy - reach), 0)
            y1 = min(int(cy + reach) + 1, SIDE)
            x_W = np.arange(x0, x1, dtype=np.float32) + 0.5 - cx
            y_H1 = (np.arange(y0, y1, dtype=np.float32) + 0.5 - cy)[:, None]
            inside_HW = _inside(thing.shape, x_W, y_H1, radius)

            owner_HW = self.owner_FHW[frame, y0:y1, x0:x1]
            self.full_OF[index, frame] = inside_HW.sum()
            if index > 0:
                self._note_hidden(index, frame, owner_HW[inside_HW])
            owner_HW[inside_HW] = index
            self.frames_FHWC[frame, y0:y1, x0:x1][inside_HW] = rgb

    def _note_hidden(self, index: int, frame: int, owners_N: np.ndarray) -> None:
        """Record how much of the other things this one covers in a frame."""
        num_things = len(self.hides_OO)
        covered_O = np.bincount(owners_N + 1, minlength=num_things + 1)[1:]
        if covered_O.any():
            share_O = covered_O / np.maximum(self.full_OF[:, frame], 1)
            self.hides_OO[index] = np.maximum(self.hides_OO[index], share_O)


def _inside(shape: str, x_W: np.ndarray, y_H1: np.ndarray, radius: float) -> np.ndarray:
    if shape == "circle":
        return x_W * x_W + y_H1 * y_H1 < radius * radius
    if shape == "square":
        return np.maximum(np.abs(x_W), np.abs(y_H1)) < 0.9 * radius
    if shape == "triangle":
        return (np.abs(y_H1) < radius) & (np.abs(x_W) < 0.55 * (y_H1 + radius))
    return np.abs(x_W) + np.abs(y_H1) < 1.15 * radius


def _measure(owner_FHW: np.ndarray, things: tuple[Thing, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes and areas of the visible pixels, (O, F, 4) and (O, F)."""
    boxes_OF4 = np.zeros((len(things), len(owner_FHW), 4), np.float32)
    areas_OF = np.zeros((len(things), len(owner_FHW)), np.int32)
    for index, thing in enumerate(things):
        window = slice(thing.start, thing.stop)
        mask_LHW = owner_FHW[window] == index
        area_L = mask_LHW.sum((1, 2), dtype=np.int32)
        area_L[area_L < MIN_AREA] = 0
        areas_OF[index, window] = area_L

        x0_L, x1_L = _extent(mask_LHW.any(1))
        y0_L, y1_L = _extent(mask_LHW.any(2))
        box_L4 = np.stack([x0_L, y0_L, x1_L, y1_L], -1)
        boxes_OF4[index, window] = np.where(area_L[:, None] > 0, box_L4, 0)
    return boxes_OF4, areas_OF


def _extent(hit_LN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first hit of each row, and one past the last."""
    return hit_LN.argmax(1), hit_LN.shape[1] - hit_LN[:, ::-1].argmax(1)
