"""Training tracks for the tiny segmenter: an object, a prompted frame, a direction in time, and the prompt.

The pool keeps thousands of clips on the training device and gives out many tracks of each, so that the speed at which
clips are drawn does not bound the training. Knows no model.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tiny.segmenter_school import clips as clips
from tiny.world.scene import MIN_AREA, NUM_FRAMES, SIDE


@dataclass(frozen=True)
class Tracks:
    """B tracks of T frames: frames uint8 (B, T, H, W, 3), masks bool (B, T, H, W), counted bool (B, T).

    `counted` is False where only a sliver is visible: neither present nor absent can be asked for there.
    """

    frames: Tensor
    masks: Tensor
    counted: Tensor


class Pool:
    """The newest clips of the workers, on the training device; areas stay on CPU, where tracks are chosen."""

    def __init__(
        self, folder: Path, device: str, size: int, workers: int, seed: int, textured: float
    ) -> None:
        self.device = torch.device(device)
        self.ring = 512 if device == "cuda" else 48
        self.slots, self.counters = clips.create(folder / "clips", workers, self.ring)
        shape = (NUM_FRAMES, SIDE, SIDE)
        self.frames = torch.zeros((size, *shape, 3), dtype=torch.uint8, device=self.device)
        self.owner = torch.full((size, *shape), -1, dtype=torch.int8, device=self.device)
        self.areas = np.zeros((size, NUM_FRAMES, clips.MAX_OBJECTS), np.int64)
        self.total = 0
        context = multiprocessing.get_context("spawn")
        jobs = [
            (folder / "clips", worker, workers, self.ring, seed, textured)
            for worker in range(workers)
        ]
        self.processes = [
            context.Process(target=clips.produce, args=job, daemon=True) for job in jobs
        ]
        for process in self.processes:
            process.start()

    @property
    def size(self) -> int:
        return min(self.total, len(self.frames))

    def refresh(self) -> None:
        """Takes over what the workers have written; in bulk, because each copy stalls the device."""
        for worker, (written, read) in enumerate(self.counters.copy()):
            for number in range(int(read), int(written)):
                self._store(self.slots[worker, number % self.ring])
            self.counters[worker, 1] = written

    def _store(self, clip: np.void) -> None:
        place = self.total % len(self.frames)
        self.frames[place].copy_(torch.from_numpy(np.array(clip["frames_FHWC"])))
        self.owner[place].copy_(torch.from_numpy(np.array(clip["owner_FHW"])))
        self.areas[place] = clips.areas(clip["owner_FHW"])
        self.total += 1

    def wait_for(self, count: int) -> None:
        while self.total < count:
            if not any(process.is_alive() for process in self.processes):
                raise RuntimeError(
                    "the processes that draw clips have ended; their errors stand above"
                )
            time.sleep(0.1)
            self.refresh()

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.join()


def choose(rng: np.random.Generator, areas_FO: np.ndarray, length: int) -> tuple[int, np.ndarray]:
    """An object and the frames of a track of it: from a frame where it is well visible, either way in time."""
    first, thing = rng.choice(np.argwhere(areas_FO >= 2 * MIN_AREA))
    way = int(rng.choice((-1, 1)))
    room = NUM_FRAMES - 1 - first if way > 0 else first
    other = NUM_FRAMES - 1 - room
    if room < length - 1 and other > room:
        way = -way
        room = other
    stride = int(rng.integers(1, min(3, max(1, room // max(length - 1, 1))) + 1))
    return int(thing), np.clip(first + way * stride * np.arange(length), 0, NUM_FRAMES - 1)


def draw_tracks(pool: Pool, rng: np.random.Generator, batch: int, length: int) -> Tracks:
    """A training batch, with flips and shuffled colour channels."""
    usable = np.flatnonzero((pool.areas[: pool.size] >= 2 * MIN_AREA).any((1, 2)))
    clip_B = rng.choice(usable, batch)
    chosen = [choose(rng, pool.areas[n], length) for n in clip_B]
    thing_B = np.array([c[0] for c in chosen])
    frame_BT = np.stack([c[1] for c in chosen])
    area_BT = pool.areas[clip_B[:, None], frame_BT, thing_B[:, None]]
    channel_B3 = np.stack([rng.permutation(3) for _ in range(batch)])
    n, f, o, c, counted = (
        torch.from_numpy(x).to(pool.device, non_blocking=True)
        for x in (clip_B, frame_BT, thing_B, channel_B3, (area_BT == 0) | (area_BT >= MIN_AREA))
    )
    frames = pool.frames[n[:, None], f]
    frames = torch.gather(frames, -1, c[:, None, None, None].expand_as(frames))
    masks = pool.owner[n[:, None], f] == o[:, None, None, None]
    for axis in (2, 3):
        if rng.random() < 0.5:
            frames = frames.flip(axis)
            masks = masks.flip(axis)
    return Tracks(frames, masks, counted)


def draw_points(
    masks_BHW: Tensor, kind: tuple[bool, int], jitter: float, size: int
) -> dict[str, Tensor]:
    """Prompts for the objects under the masks, in the model's pixels; without a device synchronisation.

    A box is moved by up to `jitter` of its size (normal); a point lies on the object, and the last of several points
    sometimes beside it.
    """
    batch, height, width = masks_BHW.shape
    across = masks_BHW.any(1).int()
    down = masks_BHW.any(2).int()
    low = torch.stack([across.argmax(1), down.argmax(1)], 1).float()
    high = torch.stack(
        [width - across.flip(1).argmax(1), height - down.flip(1).argmax(1)], 1
    ).float()
    limit = masks_BHW.new_tensor([width, height], dtype=torch.float32)
    span = high - low
    coords = []
    labels = []
    if kind[0]:
        for corner, label in ((low, 2), (high, 3)):
            moved = corner + torch.randn_like(corner) * jitter * span
            coords.append(torch.minimum(moved.clamp(min=0), limit))
            labels.append(torch.full((batch,), label, device=low.device))
    for index in range(kind[1]):
        off = torch.rand(batch, device=low.device) < (
            0.4 if index and index == kind[1] - 1 else 0.0
        )
        beside_BHW = ~masks_BHW & _near(low, high, masks_BHW)
        coords.append(_random_pixel(torch.where(off[:, None, None], beside_BHW, masks_BHW)))
        labels.append((~off).long())
    return {
        "point_coords": torch.stack(coords, 1) * (size / limit),
        "point_labels": torch.stack(labels, 1).int(),
    }


def _near(low: Tensor, high: Tensor, like_BHW: Tensor) -> Tensor:
    """Pixels in the boxes enlarged by half, bool (B, H, W)."""
    pad = (high - low) / 4
    inside = []
    for axis, length in ((0, like_BHW.shape[2]), (1, like_BHW.shape[1])):
        cell = torch.arange(length, device=low.device)
        inside.append((cell >= (low - pad)[:, axis, None]) & (cell < (high + pad)[:, axis, None]))
    return inside[1][:, :, None] & inside[0][:, None, :]


def _random_pixel(allowed_BHW: Tensor) -> Tensor:
    """The centre (x, y) of a random allowed pixel of each row."""
    width = allowed_BHW.shape[2]
    index = (
        (torch.rand(allowed_BHW.shape, device=allowed_BHW.device) * allowed_BHW)
        .flatten(1)
        .argmax(1)
    )
    return torch.stack([index % width, index // width], 1).float() + 0.5
