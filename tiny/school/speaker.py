"""A tiny policy that answers, in this process and with plain torch: for looking at it while it is being taught.

It is an `Ask` (core.types): the same dialogue ids as the engine's, one answer at a time, a few milliseconds a token.
Knows no system and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from core.batch import mrope_positions
from core.types import Turn, View
from models.dialogue import Dialogue
from tiny.school.batched import Batched, Cache

Show = Callable[[View], np.ndarray]  # uint8 RGB pixels of a view, at its size


class Speaker:
    """The policy for one video at a time: `show` gives its pixels. Every call opens a dialogue of its own."""

    version = 0

    def __init__(
        self, net: Batched, dialogue: Dialogue, show: Show, temperature: float = 0.0
    ) -> None:
        self.net = net
        self.dialogue = dialogue
        self.show = show
        self.temperature = temperature
        self.banned_V = torch.ones(len(net.hf.lm_head.weight), dtype=torch.bool)
        self.banned_V[dialogue.allowed_ids()] = False
        self._read: tuple[list[int], Cache, torch.Tensor, int] | None = (
            None  # the last prompt, for who asks it again
        )

    async def __call__(
        self, content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn:
        return self._answer(content, max_tokens, self.temperature, 1.0)

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        return self._answer(content, max_tokens, temperature, top_p)

    def count(self, text: str) -> int:
        return len(self.dialogue.text(text))

    @torch.no_grad()
    def _answer(
        self, content: Sequence[str | View], max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        ids = self.dialogue.user(content, first=True, expanded=True)
        if self._read is None or self._read[0] != ids:
            self._read = (
                ids,
                *self._prefill(ids, [piece for piece in content if isinstance(piece, View)]),
            )
        _, cache, logits_V, at = self._read
        said: list[int] = []
        while len(said) < max_tokens and (not said or said[-1] != self.dialogue.end_id):
            said.append(self._pick(logits_V, temperature, top_p))
            x = self.net.decoder.embed_tokens(torch.tensor([said[-1:]]))
            hidden, new, _ = self.net.read(x, torch.full((1, 1, 3), at), past=cache)
            cache = [
                tuple(torch.cat(pair, 2) for pair in zip(*kv, strict=True))
                for kv in zip(cache, new, strict=True)
            ]
            logits_V = self.net.logits(hidden[0, -1])
            at = at + 1
        complete = said[-1:] == [self.dialogue.end_id]
        return Turn(
            tuple(ids), tuple(said), (), self.dialogue.decode(said), (), complete, self.version
        )

    def _prefill(self, ids: list[int], views: list[View]) -> tuple[Cache, torch.Tensor, int]:
        grids = [(v.height // self.dialogue.cell, v.width // self.dialogue.cell) for v in views]
        positions_3T = mrope_positions(ids, grids, self.dialogue.image_id)
        images = torch.cat([see_one(self.net, self.show(view)) for view in views])
        x = self.net.embed(torch.tensor([ids]), images)
        hidden, cache, _ = self.net.read(x, torch.from_numpy(positions_3T.T.copy())[None])
        return cache, self.net.logits(hidden[0, -1]), int(positions_3T.max()) + 1

    def _pick(self, logits_V: torch.Tensor, temperature: float, top_p: float) -> int:
        logits_V = logits_V.masked_fill(self.banned_V, -torch.inf)
        if temperature == 0:
            return int(logits_V.argmax())
        p_V, order = (logits_V / temperature).softmax(-1).sort(descending=True)
        p_V = p_V.masked_fill(p_V.cumsum(-1) - p_V > top_p, 0.0)
        return int(order[torch.multinomial(p_V, 1)])


def see_one(net: Batched, image_HWC: np.ndarray) -> torch.Tensor:
    return net.see(torch.from_numpy(np.ascontiguousarray(image_HWC))[None])[0]
