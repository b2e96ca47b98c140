"""A tiny policy that answers in this process, with plain torch: to look at it while it is taught.

It is an `Ask` (`core.types`): the same dialogue ids as the engine's, one answer at a time, a few
milliseconds a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core.batch import mrope_positions
from core.types import Turn, View
from models.dialogue import Dialogue
from tiny.school.batched import Batched, Cache

# Returns the uint8 RGB pixels of a view, at its size.
Show = Callable[[View], np.ndarray]


@dataclass(frozen=True)
class _Prompt:
    """A prompt after the decoder has read it; `at` is the next position."""

    ids: list[int]
    cache: Cache
    logits_V: torch.Tensor
    at: int


class Speaker:
    """The policy for one video; `show` gives its pixels. Every call opens a new dialogue."""

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
        # The last prompt, in case it is asked again.
        self._last: _Prompt | None = None

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
        prompt = self._read(content)
        cache = prompt.cache
        logits_V = prompt.logits_V
        said: list[int] = []
        while len(said) < max_tokens and said[-1:] != [self.dialogue.end_id]:
            position = torch.full((1, 1, 3), prompt.at + len(said))
            said.append(self._pick(logits_V, temperature, top_p))
            x = self.net.decoder.embed_tokens(torch.tensor([said[-1:]]))
            hidden, new, _ = self.net.read(x, position, past=cache)
            cache = _append(cache, new)
            logits_V = self.net.logits(hidden[0, -1])

        return Turn(
            prompt_ids=tuple(prompt.ids),
            completion_ids=tuple(said),
            logprobs=(),
            text=self.dialogue.decode(said),
            media=(),
            complete=said[-1:] == [self.dialogue.end_id],
            version=self.version,
        )

    def _read(self, content: Sequence[str | View]) -> _Prompt:
        ids = self.dialogue.user(content, first=True, expanded=True)
        if self._last is not None and self._last.ids == ids:
            return self._last

        views = [piece for piece in content if isinstance(piece, View)]
        grids = grids_of(self.dialogue, views)
        positions_3T = mrope_positions(ids, grids, self.dialogue.image_id)
        images = torch.cat([see_one(self.net, self.show(view)) for view in views])
        x = self.net.embed(torch.tensor([ids]), images)
        hidden, cache, _ = self.net.read(x, torch.from_numpy(positions_3T.T.copy())[None])
        next_position = int(positions_3T.max()) + 1
        self._last = _Prompt(ids, cache, self.net.logits(hidden[0, -1]), next_position)
        return self._last

    def _pick(self, logits_V: torch.Tensor, temperature: float, top_p: float) -> int:
        logits_V = logits_V.masked_fill(self.banned_V, -torch.inf)
        if temperature == 0:
            return int(logits_V.argmax())

        p_V, order = (logits_V / temperature).softmax(-1).sort(descending=True)
        p_V = p_V.masked_fill(p_V.cumsum(-1) - p_V > top_p, 0.0)
        return int(order[torch.multinomial(p_V, 1)])


def grids_of(dialogue: Dialogue, views: Sequence[View]) -> list[tuple[int, int]]:
    """Return the height and width of each view, in tokens."""
    cell = dialogue.cell
    return [(view.height // cell, view.width // cell) for view in views]


def see_one(net: Batched, image_HWC: np.ndarray) -> torch.Tensor:
    """Return the tokens of one image (tokens, D)."""
    return net.see(torch.from_numpy(np.ascontiguousarray(image_HWC))[None])[0]


def _append(cache: Cache, new: Cache) -> Cache:
    longer = []
    for (old_k, old_v), (new_k, new_v) in zip(cache, new, strict=True):
        keys = torch.cat([old_k, new_k], 2)
        values = torch.cat([old_v, new_v], 2)
        longer.append((keys, values))
    return longer
