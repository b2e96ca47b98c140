"""Training tracks for the tiny segmenter: an object, frames from a prompted one on, prompts.

The store keeps thousands of clips on the training device and gives out many tracks of each, so the
speed at which clips are made does not bound the training.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tiny.segmenter_school import clips
from tiny.world.scene import MIN_AREA, NUM_FRAMES, SIDE


class PromptKind(NamedTuple):
    """The prompt of an object: with or without a box, and a number of points."""

    box: bool
    points: int


@dataclass(frozen=True)
class Tracks:
    """B tracks of T frames.

    Attributes:
        frames: uint8 (B, T, H, W, 3).
        masks: bool (B, T, H, W).
        counted: bool (B, T); False if only a sliver is visible, neither present nor absent.
    """

    frames: Tensor
    masks: Tensor
    counted: Tensor


class ClipStore:
    """The newest clips of the worker processes, on the training device.

    Areas stay in main memory, where tracks are chosen.
    """

    def __init__(
        self, folder: Path, device: str, size: int, workers: int, seed: int, textured: float
    ) -> None:
        self.device = torch.device(device)
        self.ring = 512 if device == "cuda" else 48
        path = folder / "clips"
        self.slots, self.counters = clips.create_ring(path, workers, self.ring)
        shape = (NUM_FRAMES, SIDE, SIDE)
        self.frames = torch.zeros((size, *shape, 3), dtype=torch.uint8, device=self.device)
        self.owner = torch.full((size, *shape), -1, dtype=torch.int8, device=self.device)
        self.areas = np.zeros((size, NUM_FRAMES, clips.MAX_OBJECTS), np.int64)
        self.total = 0

        context = multiprocessing.get_context("spawn")
        self.processes = []
        for worker in range(workers):
            args = (path, worker, workers, self.ring, seed, textured)
            process = context.Process(target=clips.produce, args=args, daemon=True)
            process.start()
            self.processes.append(process)

    @property
    def size(self) -> int:
        return min(self.total, len(self.frames))

    def refresh(self) -> None:
        """Take over all new clips, in bulk because each copy stalls the device."""
        for worker, (written, read) in enumerate(self.counters.copy()):
            for number in range(int(read), int(written)):
                self.add(self.slots[worker, number % self.ring])
            self.counters[worker, 1] = written

    def add(self, clip: np.void) -> None:
        """Store a clip in place of the oldest."""
        place = self.total % len(self.frames)
        self.frames[place].copy_(torch.from_numpy(np.array(clip["frames_FHWC"])))
        self.owner[place].copy_(torch.from_numpy(np.array(clip["owner_FHW"])))
        self.areas[place] = clips.object_areas(clip["owner_FHW"])
        self.total += 1

    def wait_for(self, count: int) -> None:
        """Wait until `count` clips have come.

        Raises:
            RuntimeError: All worker processes have ended.
        """
        while self.total < count:
            if not any(process.is_alive() for process in self.processes):
                raise RuntimeError(
                    "the processes that make clips have ended; their errors stand above"
                )
            time.sleep(0.1)
            self.refresh()

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.join()


def choose(
    rng: np.random.Generator,
    areas_FO: np.ndarray,
    length: int,
) -> tuple[int, np.ndarray]:
    """Choose an object and the frames of a track of it.

    A track starts in a frame with a good part of the object and runs either way in time.
    """
    first, thing = rng.choice(np.argwhere(areas_FO >= 2 * MIN_AREA))
    way = int(rng.choice((-1, 1)))
    room = NUM_FRAMES - 1 - first if way > 0 else first
    other_room = NUM_FRAMES - 1 - room
    if room < length - 1 and other_room > room:
        way = -way
        room = other_room
    longest_stride = min(3, max(1, room // max(length - 1, 1)))
    stride = int(rng.integers(1, longest_stride + 1))
    frames = first + way * stride * np.arange(length)
    return int(thing), np.clip(frames, 0, NUM_FRAMES - 1)


def random_tracks(store: ClipStore, rng: np.random.Generator, batch: int, length: int) -> Tracks:
    """Return a training batch, with flips and shuffled colour channels."""
    large_NFO = store.areas[: store.size] >= 2 * MIN_AREA
    usable = np.flatnonzero(large_NFO.any((1, 2)))
    clip_B = rng.choice(usable, batch)
    chosen = [choose(rng, store.areas[clip], length) for clip in clip_B]
    thing_B = np.array([thing for thing, _ in chosen])
    frame_BT = np.stack([frames for _, frames in chosen])
    area_BT = store.areas[clip_B[:, None], frame_BT, thing_B[:, None]]
    counted_BT = (area_BT == 0) | (area_BT >= MIN_AREA)
    channel_B3 = np.stack([rng.permutation(3) for _ in range(batch)])

    to_device = [
        torch.from_numpy(array).to(store.device, non_blocking=True)
        for array in (clip_B, frame_BT, thing_B, channel_B3, counted_BT)
    ]
    clip, frame, thing, channel, counted = to_device
    frames = store.frames[clip[:, None], frame]
    frames = torch.gather(frames, -1, channel[:, None, None, None].expand_as(frames))
    masks = store.owner[clip[:, None], frame] == thing[:, None, None, None]
    for axis in (2, 3):
        if rng.random() < 0.5:
            frames = frames.flip(axis)
            masks = masks.flip(axis)
    return Tracks(frames, masks, counted)


def random_prompts(
    masks_BHW: Tensor, kind: PromptKind, jitter: float, size: int
) -> dict[str, Tensor]:
    """Return prompts for the objects under the masks, as SAM 2 takes them.

    A point lies on the object; the last of several points is sometimes beside it. Nothing here
    waits for the device.

    Args:
        jitter: A box is moved by about this share of its size (normal).
        size: Side of the model's image; prompts are in its pixels.
    """
    batch, height, width = masks_BHW.shape
    low, high = _boxes(masks_BHW)
    limit = masks_BHW.new_tensor([width, height], dtype=torch.float32)
    coords = []
    labels = []
    if kind.box:
        # SAM 2's labels of the two corners of a box.
        for corner, label in ((low, 2), (high, 3)):
            moved = corner + torch.randn_like(corner) * jitter * (high - low)
            coords.append(torch.minimum(moved.clamp(min=0), limit))
            labels.append(torch.full((batch,), label, device=low.device))
    for index in range(kind.points):
        may_miss = index > 0 and index == kind.points - 1
        misses = torch.rand(batch, device=low.device) < (0.4 if may_miss else 0.0)
        beside_BHW = ~masks_BHW & _near(low, high, masks_BHW)
        coords.append(_random_pixel(torch.where(misses[:, None, None], beside_BHW, masks_BHW)))
        labels.append((~misses).long())
    return {
        "point_coords": torch.stack(coords, 1) * (size / limit),
        "point_labels": torch.stack(labels, 1).int(),
    }


def _boxes(masks_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the low and the high corner of each mask's box, (B, 2) each."""
    height, width = masks_BHW.shape[1:]
    across = masks_BHW.any(1).int()
    down = masks_BHW.any(2).int()
    low = torch.stack([across.argmax(1), down.argmax(1)], 1)
    x1 = width - across.flip(1).argmax(1)
    y1 = height - down.flip(1).argmax(1)
    return low.float(), torch.stack([x1, y1], 1).float()


def _near(low: Tensor, high: Tensor, like_BHW: Tensor) -> Tensor:
    """Return the pixels in the boxes enlarged by half, bool (B, H, W)."""
    pad = (high - low) / 4
    inside = []
    for axis, length in ((0, like_BHW.shape[2]), (1, like_BHW.shape[1])):
        pixel = torch.arange(length, device=low.device)
        after = pixel >= (low - pad)[:, axis, None]
        before = pixel < (high + pad)[:, axis, None]
        inside.append(after & before)
    across, down = inside
    return down[:, :, None] & across[:, None, :]


def _random_pixel(allowed_BHW: Tensor) -> Tensor:
    """Return the centre (x, y) of a random allowed pixel of each row."""
    width = allowed_BHW.shape[2]
    noise = torch.rand(allowed_BHW.shape, device=allowed_BHW.device)
    index = (noise * allowed_BHW).flatten(1).argmax(1)
    return torch.stack([index % width, index // width], 1).float() + 0.5
