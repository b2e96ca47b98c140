"""Videos with masks to train the tiny segmenter on: synthetic scenes and harder textured ones.

Unlike flat shapes, textured scenes have patterns, look-alikes, a moving camera and rotation. So the
model learns to segment and not just to read a palette. Worker processes write clips into one
memory-mapped file, without torch.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tiny.world.scene import MIN_AREA, NUM_FRAMES, SIDE, random_scene

# owner_FHW is the index of the visible object at each pixel; -1 for the background.
CLIP = np.dtype(
    [
        ("frames_FHWC", np.uint8, (NUM_FRAMES, SIDE, SIDE, 3)),
        ("owner_FHW", np.int8, (NUM_FRAMES, SIDE, SIDE)),
    ]
)
MAX_OBJECTS = 6


@dataclass(frozen=True)
class _Object:
    """A textured object.

    Attributes:
        outline_N2: Points around 0, radius about 1.
        texture_HWC: Its colours.
        radius: Pixels at the start.
        centre: Pixels (x, y) at the start.
        velocity: Pixels a frame.
        angle: Radians at the start.
        spin: Radians a frame.
        growth: Growth of the log radius a frame.
        window: Its frames, half-open.
    """

    outline_N2: np.ndarray
    texture_HWC: np.ndarray
    radius: float
    centre: np.ndarray
    velocity: np.ndarray
    angle: float
    spin: float
    growth: float
    window: tuple[int, int]


def random_clip(rng: np.random.Generator, textured_share: float) -> np.void:
    """Return one random video as a CLIP record."""
    clip = np.zeros(1, CLIP)[0]
    if rng.random() < textured_share:
        clip["frames_FHWC"], clip["owner_FHW"] = textured(rng)
    else:
        scene = random_scene(rng)
        clip["frames_FHWC"] = scene.frames_FHWC
        clip["owner_FHW"] = scene.owner_FHW
    return clip


def object_areas(owner_FHW: np.ndarray) -> np.ndarray:
    """Return the visible pixels of every object, (F, MAX_OBJECTS)."""
    areas = [(owner_FHW == index).sum((1, 2)) for index in range(MAX_OBJECTS)]
    return np.stack(areas, 1)


def textured(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return frames (F, H, W, 3) and owners (F, H, W) of one to five textured objects."""
    while True:
        frames_FHWC, owner_FHW = _film(rng)
        if (object_areas(owner_FHW) >= 3 * MIN_AREA).any():
            return frames_FHWC, owner_FHW


def _film(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # The camera sees a window of a background that is larger by the margin on each side.
    margin = 16
    background = _texture(rng, SIDE + 2 * margin) * rng.uniform(0.6, 1)
    camera = rng.uniform(-1, 1, 2) * (rng.random() < 0.5)
    noise = rng.uniform(0, 0.05)
    objects = _random_objects(rng)

    frames = np.empty((NUM_FRAMES, SIDE, SIDE, 3), np.uint8)
    owner = np.full((NUM_FRAMES, SIDE, SIDE), -1, np.int8)
    for t in range(NUM_FRAMES):
        moved = np.clip(camera * (t - NUM_FRAMES // 2), -margin, margin)
        x, y = (margin + moved).astype(int)
        frame = background[y : y + SIDE, x : x + SIDE].copy()
        for index, thing in enumerate(objects):
            if thing.window[0] <= t < thing.window[1]:
                _paint(frame, owner[t], thing, t, index)
        frame += rng.normal(0, noise, (SIDE, SIDE, 1)).astype(np.float32)
        frames[t] = np.clip(frame * 255, 0, 255)
    return frames, owner


def _random_objects(rng: np.random.Generator) -> list[_Object]:
    objects: list[_Object] = []
    for _ in range(int(rng.integers(1, MAX_OBJECTS))):
        outline = _outline(rng)
        texture = _texture(rng, SIDE)
        is_lookalike = objects and rng.random() < 0.3
        if is_lookalike:
            texture = objects[0].texture_HWC
            if rng.random() < 0.5:
                outline = objects[0].outline_N2

        # An object with more frames than the video is always there.
        length = int(rng.integers(6, 40))
        start = int(rng.integers(0, max(NUM_FRAMES - length, 0) + 1))
        objects.append(
            _Object(
                outline_N2=outline,
                texture_HWC=texture,
                radius=SIDE * rng.uniform(0.07, 0.25),
                centre=rng.uniform(0.1, 0.9, 2) * SIDE,
                velocity=rng.normal(0, 0.022, 2) * SIDE,
                angle=rng.uniform(0, 6.28),
                spin=rng.normal(0, 0.08),
                growth=rng.normal(0, 0.015),
                window=(start, start + length),
            )
        )
    return objects


def _paint(frame: np.ndarray, owner_HW: np.ndarray, thing: _Object, t: int, index: int) -> None:
    since = t - thing.window[0]
    angle = thing.angle + thing.spin * since
    cos = np.cos(angle)
    sin = np.sin(angle)
    # It may leave the picture for good.
    centre_2 = thing.centre + thing.velocity * since
    x, y = centre_2

    rotation = np.array([[cos, sin], [-sin, cos]])
    outline = thing.outline_N2 * thing.radius * np.exp(thing.growth * since) @ rotation
    # Points in 1/16 of a pixel.
    points = np.round((outline + centre_2) * 16).astype(np.int32)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [points], (255,), cv2.LINE_AA, 4)

    # The texture turns and moves with the object, around its middle.
    half = SIDE / 2
    shift_x = x - half * (cos - sin)
    shift_y = y - half * (sin + cos)
    move = np.array([[cos, -sin, shift_x], [sin, cos, shift_y]], np.float32)
    texture = cv2.warpAffine(thing.texture_HWC, move, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    frame += (texture - frame) * (mask.astype(np.float32) / 255)[..., None]
    owner_HW[mask > 127] = index


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return plain, cloudy, striped or speckled colour, (size, size, 3) in about [0, 1]."""
    kind = rng.integers(4)
    plain = np.broadcast_to(rng.random(3).astype(np.float32), (size, size, 3))
    if kind == 1:
        return 0.55 * plain + 0.45 * _clouds(rng, size, int(rng.integers(2, 8)))
    if kind == 2:
        period = rng.uniform(4, 16) * size / 128
        angle = rng.uniform(0, np.pi)
        yy, xx = np.mgrid[:size, :size]
        along = xx * np.cos(angle) + yy * np.sin(angle)
        wave = np.sin(along * 2 * np.pi / period)
        other = 0.5 * plain + 0.5 * rng.random(3)
        return np.where((wave > 0)[..., None], plain, other).astype(np.float32)
    if kind == 3:
        return 0.5 * plain + 0.5 * _clouds(rng, size, int(rng.integers(8, 24)))
    return plain.copy()


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    coarse = rng.random((cells, cells, 3), dtype=np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _outline(rng: np.random.Generator) -> np.ndarray:
    """Return an ellipse, box, triangle, ragged polygon, star or blob: (N, 2) points around 0."""
    kind = rng.integers(6)
    corners = (24, 4, 3, int(rng.integers(5, 10)), 10, 32)[kind]
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.ones(corners)
    flatness = rng.uniform(0.5, 1)
    if kind in (1, 2):
        radius *= 1.2
    elif kind == 3:
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(0.6, 1.2, corners)
    elif kind == 4:
        radius = np.where(np.arange(corners) % 2, 0.5, 1.2)
    elif kind == 5:
        waves = int(rng.integers(2, 5))
        radius = 1 + 0.25 * np.sin(waves * angle + rng.uniform(0, 6))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) * flatness], 1)


def produce(
    path: Path, worker: int, workers: int, ring: int, seed: int, textured_share: float
) -> None:
    """Write clips for ever, in a process of its own.

    Part `worker` of the file is a ring of `ring` slots. The counters file beside it holds, for each
    worker, the numbers of written and of read clips; a full ring waits.
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng((seed, worker))
    slots = np.memmap(path, CLIP, "r+", shape=(workers, ring))
    counters = np.memmap(counters_path(path), np.int64, "r+", shape=(workers, 2))
    for number in itertools.count():
        clip = random_clip(rng, textured_share)
        while number - counters[worker, 1] >= ring:
            time.sleep(0.01)
        slots[worker, number % ring] = clip
        counters[worker, 0] = number + 1


def counters_path(path: Path) -> Path:
    return path.with_suffix(".counters")


def create_ring(path: Path, workers: int, ring: int) -> tuple[np.memmap, np.memmap]:
    """Create the empty file and its counters: clips (workers, ring), written, read (workers, 2)."""
    slots = np.memmap(path, CLIP, "w+", shape=(workers, ring))
    counters = np.memmap(counters_path(path), np.int64, "w+", shape=(workers, 2))
    return slots, counters
