"""The words of episodes: the text of their prompts and of each sampled token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.packed import array_of
from core.types import Sample, Turn

# A run of image tokens, and a character whose bytes are not complete yet.
IMAGE = "⟨image⟩"
UNFINISHED = "\ufffd"
# Prompts whose texts are kept for the next turn.
RECENT = 4
# Most pieces of prompts whose texts are kept.
KNOWN = 4096


@dataclass(frozen=True)
class Words:
    """What people read about an episode, beside its completions.

    Attributes:
        samples: All samples of the run by their uid.
        tokenizer: transformers' tokenizer of the policy.
        image_id: Id of its image placeholder.
        recent: The last prompts and their texts.
        known: Texts of pieces of prompts.
    """

    samples: Mapping[str, Sample]
    tokenizer: Any
    image_id: int
    recent: list[tuple[Sequence[int], str]] = field(default_factory=list, compare=False)
    known: dict[bytes, str] = field(default_factory=dict, compare=False)

    def about(self, uid: str) -> dict[str, str]:
        """Return the query and the kind of a sample."""
        sample = self.samples.get(uid)
        if sample is None:
            return {}
        return {"query": sample.query, "kind": sample.kind}

    def prompt(self, turn: Turn) -> str:
        """Return the text of a turn's prompt, each image as one mark."""
        # The episodes of a group share one prompt (`core.batch.share_prompt`), and it is long.
        for index, (known, text) in enumerate(self.recent):
            if known is turn.prompt_ids:
                self.recent.append(self.recent.pop(index))
                return text
        words = ""
        ids_T = array_of(turn.prompt_ids)
        is_image_T = ids_T == self.image_id
        # Where images begin, and where they end.
        cuts = np.flatnonzero(is_image_T[1:] != is_image_T[:-1]) + 1
        start = 0
        for stop in [*cuts.tolist(), len(ids_T)]:
            is_image = start < stop and is_image_T[start]
            words += IMAGE if is_image else self._decoded(ids_T[start:stop])
            start = stop
        self.recent.append((turn.prompt_ids, words))
        del self.recent[:-RECENT]
        return words

    def _decoded(self, ids_T: np.ndarray) -> str:
        """Return the text of some ids; those between images are the same in many prompts."""
        key = ids_T.tobytes()
        text = self.known.get(key)
        if text is None:
            if len(self.known) >= KNOWN:
                self.known.clear()
            text = self.tokenizer.decode(ids_T.tolist())
            self.known[key] = text
        return text

    def pieces(self, turn: Turn) -> list[tuple[str, float | None]]:
        """Return the text and the log-prob of each sampled token.

        The text of a character that spans several tokens stands at the last one.
        """
        logprobs: Sequence[float | None] = turn.logprobs or (None,) * len(turn.completion_ids)
        pieces: list[tuple[str, float | None]] = []
        waiting: list[int] = []
        for token, logprob in zip(turn.completion_ids, logprobs, strict=True):
            waiting.append(int(token))
            text = self.tokenizer.decode(waiting)
            # No character of UTF-8 has more than four bytes, so more tokens are no character.
            if text.endswith(UNFINISHED) and len(waiting) < 4:
                pieces.append(("", logprob))
                continue
            pieces.append((text, logprob))
            waiting = []
        if waiting:
            pieces[-1] = (self.tokenizer.decode(waiting), pieces[-1][1])
        return pieces
