"""The images shown in the dialogues about one video."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.pulse import tick
from core.types import Media, Video, View

# Makes the images of some views: `data.frames.reading.show_views`.
Show = Callable[[Video, Sequence[View]], Sequence[tuple[Media, np.ndarray]]]

# Frames are decoded off the event loop, which serves other dialogues meanwhile. One thread for each
# core: the frames of the first group are then ready soon, and the engine can begin.
DECODERS = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "frames")


class Gallery:
    """Images of one video by view. Each view is decoded once, for all dialogues about the video.

    Attributes:
        images: by digest, uint8 (height, width, 3) RGB. vLLM would copy a picture of Pillow for
            every request.
    """

    def __init__(self, video: Video, show: Show) -> None:
        self.video = video
        self.images: dict[str, np.ndarray] = {}
        self._show = show
        self._media: dict[View, Media] = {}
        self._lock = asyncio.Lock()

    async def show(self, views: Sequence[View]) -> tuple[Media, ...]:
        """Return the media of the views, in order, and keep their images."""
        async with self._lock:
            missing = [view for view in dict.fromkeys(views) if view not in self._media]
            if missing:
                await self._decode(missing)
        return tuple(self._media[view] for view in views)

    async def _decode(self, views: Sequence[View]) -> None:
        loop = asyncio.get_running_loop()
        shown = await loop.run_in_executor(DECODERS, self._show, self.video, views)
        tick()
        for view, (media, pixels) in zip(views, shown, strict=True):
            self._media[view] = media
            self.images[media.digest] = pixels
