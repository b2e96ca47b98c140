"""A scripted policy and hand-made videos, for tests of systems without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.masks import encode
from core.types import Rle, Turn, Video, View


class ScriptedAsk:
    """An `Ask` that says the given texts in turn, the last one again and again.

    Auxiliary questions get the texts of `auxiliary` in the same way. A text that ends in "..." was
    cut off by its token budget. `count` counts words.

    Attributes:
        contents: what it was asked, message by message.
        budgets: the `max_tokens` of each message.
        auxiliary_contents: what it was asked in auxiliary questions.
    """

    version = 0

    def __init__(self, *texts: str, auxiliary: Sequence[str] = ()) -> None:
        self.texts = texts
        self.auxiliary_texts = auxiliary
        self.contents: list[list[Any]] = []
        self.budgets: list[int] = []
        self.auxiliary_contents: list[list[Any]] = []

    async def __call__(
        self, content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn:
        text = self.texts[min(len(self.contents), len(self.texts) - 1)]
        self.contents.append(list(content))
        self.budgets.append(max_tokens)
        ids = self.ids_of(text)
        complete = not text.endswith("...")
        return Turn((1,), ids, (-0.5,) * len(ids), text, (), complete, self.version, trainable)

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        last = len(self.auxiliary_texts) - 1
        text = self.auxiliary_texts[min(len(self.auxiliary_contents), last)]
        self.auxiliary_contents.append(list(content))
        return Turn((9,), (9,), (-0.5,), text, (), True, self.version, trainable=False)

    def ids_of(self, text: str) -> tuple[int, ...]:
        """Token ids of a text; most tests do not look at them."""
        return (2,)

    def count(self, text: str) -> int:
        return len(text.split())


def video(num_frames: int, height: int = 40, width: int = 60) -> Video:
    names = tuple(f"{frame:05d}" for frame in range(num_frames))
    return Video("v", "videos/v", names, height, width)


def rectangle(x0: int, y0: int, x1: int, y1: int, height: int = 40, width: int = 60) -> Rle:
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[y0:y1, x0:x1] = True
    return encode(mask_HW)
