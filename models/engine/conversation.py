"""One episode's dialogue with the engine: the `core.types.Ask` of a system.

Token in is token out: a dialogue goes on from the sampled ids, never from their text tokenised
again. What the engine reports to have seen is compared with what the learner will be shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.types import DialogueTooLong, Media, Turn, View
from models.engine.gallery import Gallery

if TYPE_CHECKING:
    from models.engine.engine import Engine

# Names an episode.
SeedKey = tuple[int | str, ...]


def seed_of(*key: int | str) -> int:
    """Return a sampling seed of 63 bits from run seed, step, sample, episode and turn."""
    name = repr(key).encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Conversation:
    """A dialogue about one video; each call adds a user turn and the policy's answer."""

    def __init__(
        self,
        engine: Engine,
        gallery: Gallery,
        key: SeedKey,
        temperature: float,
        top_p: float,
    ) -> None:
        self.engine = engine
        self.gallery = gallery
        self.key = key
        self.temperature = temperature
        self.top_p = top_p
        self.turns = 0
        self.auxiliary_questions = 0
        # False after an answer that was cut off.
        self.open = True
        # All ids so far, with one placeholder for each image, as vLLM takes them.
        self.short_ids: list[int] = []
        # The same with as many placeholders as the model sees.
        self.expanded_ids: list[int] = []
        self.media: list[Media] = []

    @property
    def version(self) -> int:
        """Current version of the weights."""
        return self.engine.version

    def count(self, text: str) -> int:
        """Return the number of the policy's tokens in a text."""
        return len(self.engine.dialogue.text(text))

    def id_of(self, token: str) -> int | None:
        """Return the id of a text of a single token, such as [SEG]; None for any other text."""
        ids = self.engine.dialogue.text(token)
        return ids[0] if len(ids) == 1 else None

    async def auxiliary(
        self,
        content: Sequence[str | View],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> Turn:
        """As `core.types.Ask`. The order of the calls decides an answer's seed."""
        # "aside" is part of the seed: another word would change every run.
        key = (*self.key, "aside", self.auxiliary_questions)
        # Counted before anything is awaited: concurrent calls must differ, and repeat.
        self.auxiliary_questions += 1
        alone = Conversation(self.engine, self.gallery, key, temperature, top_p)
        return await alone(content, max_tokens=max_tokens, trainable=False)

    async def __call__(
        self,
        content: Sequence[str | View],
        *,
        max_tokens: int,
        trainable: bool = True,
    ) -> Turn:
        """Say `content` and return the answer.

        Raises:
            RuntimeError: the previous answer was cut off, so nothing can follow it.
            DialogueTooLong: no token is left for an answer.
        """
        self._check_open()
        prompt, media = await self._add_user_turn(content)
        self._check_room()

        # Weights may change while the answer is sampled; it counts as that of the weights it began
        # with.
        version = self.engine.version
        digests = [m.digest for m in self.media]
        seen, sampled, logprobs = await self.engine.generate(
            self.short_ids,
            [self.gallery.images[digest] for digest in digests],
            digests,
            seed=seed_of(*self.key, self.turns),
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )
        self._check_seen(seen)

        dialogue = self.engine.dialogue
        self.open = bool(sampled) and sampled[-1] == dialogue.end_id
        self.turns += 1
        self.short_ids += sampled
        self.expanded_ids += sampled
        return Turn(
            prompt_ids=tuple(prompt),
            completion_ids=tuple(sampled),
            logprobs=tuple(logprobs),
            text=dialogue.decode(sampled),
            media=media,
            complete=self.open,
            version=version,
            trainable=trainable,
        )

    def _check_open(self) -> None:
        if not self.open:
            raise RuntimeError(
                f"episode {self.key}: the last answer was cut off by max_tokens, "
                "nothing can follow it"
            )

    def _check_room(self) -> None:
        """Stop before vLLM refuses the prompt: it needs room for one token of an answer."""
        tokens = len(self.expanded_ids)
        most = self.engine.settings.max_model_len
        if tokens >= most:
            raise DialogueTooLong(
                f"the prompt of turn {self.turns + 1} has {tokens} tokens with all before it, "
                f"and an answer needs one more: rollout.max_model_len={most}"
            )

    def _check_seen(self, seen: list[int]) -> None:
        """Stop an episode that the learner would read in other tokens."""
        assert seen == self.expanded_ids, (
            f"episode {self.key}: the engine saw {len(seen)} tokens, "
            f"the learner would count {len(self.expanded_ids)}"
        )

    async def _add_user_turn(
        self, content: Sequence[str | View]
    ) -> tuple[list[int], tuple[Media, ...]]:
        """Add a user turn to the dialogue; return its expanded ids and its media."""
        views = [piece for piece in content if isinstance(piece, View)]
        media = await self.gallery.show(views)
        self.media += media

        dialogue = self.engine.dialogue
        first = self.turns == 0
        prompt = dialogue.user(content, first=first, expanded=True)
        self.expanded_ids += prompt
        self.short_ids += dialogue.user(content, first=first, expanded=False)
        return prompt, media
