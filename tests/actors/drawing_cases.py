"""A small video with an object, and [SEG] prompts on its frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.masks import encode
from core.types import Rle, Sample, SegPrompt, Target, Video

HEIGHT = 48
WIDTH = 64
FRAMES = 4

# A [SEG] token at the same place for each role: on the keyframe, on another rewarded frame, and
# to be tracked.
KEY = SegPrompt(0, 0, 1)
SEEN = SegPrompt(0, 0, 3, "video")
FINAL = SegPrompt(0, 0, 2, "final")
SEGS = (KEY, SEEN, FINAL)


def video(path: Path | str = "nowhere") -> Video:
    names = tuple(f"{frame:02}" for frame in range(FRAMES))
    return Video("v", str(path), names, HEIGHT, WIDTH)


def truth() -> Rle:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[10:30, 20:50] = True
    return encode(mask_HW)


def sample(of: Video) -> Sample:
    """The object is in all frames but the last."""
    target = Target("o", (truth(), truth(), truth(), None))
    return Sample("v/0", of, "it", (target,))
