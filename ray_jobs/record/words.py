"""The words of episodes: the text of their prompts and of each sampled token."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.types import Sample, Turn

# A run of image tokens, and a character whose bytes are not complete yet.
IMAGE = "⟨image⟩"
UNFINISHED = "\ufffd"
# Prompts whose texts are kept for the next turn.
RECENT = 4


@dataclass(frozen=True)
class Words:
    """What people read about an episode, beside its completions.

    Attributes:
        samples: All samples of the run by their uid.
        tokenizer: transformers' tokenizer of the policy.
        image_id: Id of its image placeholder.
        recent: The last prompts and their texts.
    """

    samples: Mapping[str, Sample]
    tokenizer: Any
    image_id: int
    recent: list[tuple[tuple[int, ...], str]] = field(default_factory=list, compare=False)

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
        for is_image, ids in itertools.groupby(turn.prompt_ids, self.image_id.__eq__):
            words += IMAGE if is_image else self.tokenizer.decode(list(ids))
        self.recent.append((turn.prompt_ids, words))
        del self.recent[:-RECENT]
        return words

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
