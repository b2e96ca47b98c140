"""SAM 2's image features of frames, cached by frame digest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base

from models.segmenters import sam2_track
from models.segmenters.base import AHEAD
from models.segmenters.sam2_track import Maps

# 30,000 frames of the tiny model, 128 of an official one in fp32.
CACHE_BYTES = 2 << 30


class FeatureCache:
    """Image features by frame digest: the most recently used, up to `limit` bytes."""

    def __init__(
        self,
        model: SAM2Base,
        device: torch.device,
        limit: int,
        like_official: bool,
    ) -> None:
        """Start empty.

        Args:
            model: the model.
            device: its device.
            limit: largest size in bytes.
            like_official: resize frames as Meta's video predictor does (`resized`).
        """
        self.model = model
        self.like_official = like_official
        self.device = device
        self.limit = limit
        self.bytes = 0
        self.kept: OrderedDict[str, Maps] = OrderedDict()
        # Frames encoded so far, for tests and reports.
        self.encoded = 0

    def stacked(self, keys: Sequence[str], ahead: Mapping[str, np.ndarray]) -> Maps:
        """Return the features of the frames `keys`, stacked level by level.

        Args:
            keys: digests of frames.
            ahead: pixels by digest of at least the frames that are not cached. If one of `keys` is
                missing, all of them are encoded together.
        """
        if any(key not in self.kept for key in keys):
            missing = {}
            for key, frame in ahead.items():
                if key not in self.kept:
                    missing[key] = frame
            self._encode(missing, needed=set(keys))
        for key in keys:
            self.kept.move_to_end(key)

        frames = [self.kept[key] for key in keys]
        levels = zip(*frames, strict=True)
        return tuple(torch.stack(level) for level in levels)

    def _encode(self, frames: Mapping[str, np.ndarray], needed: set[str]) -> None:
        keys = list(frames)
        for start in range(0, len(keys), AHEAD):
            part = keys[start : start + AHEAD]
            images = []
            for key in part:
                frame = frames[key]
                if self.like_official:
                    frame = resized(frame, self.model.image_size)
                image = torch.from_numpy(frame)[None].to(self.device)
                images.append(sam2_track.normalise(image, self.model.image_size))
            levels = sam2_track.encode(self.model, torch.cat(images))

            for row, key in enumerate(part):
                self.kept[key] = tuple(level[row].clone() for level in levels)
                self.bytes += size_of(self.kept[key])
        self.encoded += len(keys)
        self._evict(needed | set(keys))

    def _evict(self, needed: set[str]) -> None:
        for key in list(self.kept):
            if self.bytes <= self.limit:
                return
            if key not in needed:
                self.bytes -= size_of(self.kept.pop(key))


def resized(frame_HWC: np.ndarray, size: int) -> np.ndarray:
    """Return a frame of `size` x `size` pixels: Pillow's bicubic, rounded to 8 bits.

    Meta's video predictor reads frames so. Even one grey level more or less moves masks.
    """
    image = Image.fromarray(frame_HWC)
    # Writable, as torch wants it.
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))


def size_of(maps: Maps) -> int:
    """Return the size of features in bytes."""
    return sum(level.numel() * level.element_size() for level in maps)
