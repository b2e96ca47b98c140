"""Chat turns as token ids: the only code that writes a dialogue in tokens.

Engine, learner, warm start and pretraining all build their prompts here, so they cannot disagree.
Pieces of text are tokenised one by one and concatenated, never as a rendered whole. Text never
becomes a control token: a query with "<|image_pad|>" in it is spelled out in ordinary tokens. For
the Qwen families two turns look like this:

    <|im_start|>user\\n{content}<|im_end|>\\n
    <|im_start|>assistant\\n{completion}<|im_end|>\\n
    <|im_start|>user ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.types import View
from models.families import Family, family_of

# Texts whose ids are cached.
REMEMBERED = 10_000


def load_dialogue(folder: str | Path, system_message: str = "") -> Dialogue:
    """Return the dialogue of a policy's Hugging Face folder: its tokenizer in its family's format.

    Args:
        folder: the policy.
        system_message: message before the first turn (`actors.setup.system_message`); empty for
            none.

    Raises:
        ValueError: the model or its tokenizer is not supported.
    """
    from transformers import AutoTokenizer

    family = family_of(folder)
    return Dialogue(AutoTokenizer.from_pretrained(folder), family, system_message)


def control_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the tokenizer's control tokens, such as vision marks."""
    return special_ids(tokenizer) - set(sayable_specials(tokenizer).values())


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of all tokens marked `special: true`."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def sayable_specials(tokenizer: Any) -> dict[str, int]:
    """Return the special tokens that a policy says, with their ids.

    All control tokens of the families are written <|...|>. Releases add tokens of their own as
    special ones too, such as [SEG] of VideoSEG-O3; these are words of the policy.
    """
    found = {}
    for i, token in tokenizer.added_tokens_decoder.items():
        if token.special and not (token.content.startswith("<|") and token.content.endswith("|>")):
            found[token.content] = int(i)
    return found


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of plain text; control tokens spelled in it stay text."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


def joined(content: Sequence[str | View]) -> list[str | View]:
    """Return the content with adjacent texts joined, as a chat template renders them."""
    pieces: list[str | View] = []
    for piece in content:
        before = pieces[-1] if pieces else None
        if isinstance(piece, str) and isinstance(before, str):
            pieces[-1] = before + piece
        else:
            pieces.append(piece)
    return pieces


@dataclass(frozen=True)
class Dialogue:
    """Writes turns as token ids, for one tokenizer.

    Attributes:
        tokenizer: transformers' tokenizer of the policy.
        family: the policy's family.
        system_message: message before the first turn; empty for none.
    """

    tokenizer: Any
    family: Family
    system_message: str = ""
    _ids_of_text: dict[str, tuple[int, ...]] = field(
        default_factory=dict,
        repr=False,
        compare=False,
    )
    _id_of_mark: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    _sayable: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        control = control_ids(self.tokenizer)
        for mark in self.family.chat.marks:
            number = self.tokenizer.convert_tokens_to_ids(mark)
            if number not in control:
                raise ValueError(
                    f"the policy's tokenizer has no control token {mark}: "
                    f"a tokenizer of {self.family.model_type} is needed"
                )
            self._id_of_mark[mark] = int(number)
        self._sayable.update(sayable_specials(self.tokenizer))

    def id_of(self, mark: str) -> int:
        """Return the id of one of the family's control tokens."""
        return self._id_of_mark[mark]

    @property
    def end_id(self) -> int:
        """Id of the end-of-turn token."""
        return self.id_of(self.family.chat.turn_end)

    @property
    def image_id(self) -> int:
        """Id of the image placeholder."""
        return self.id_of(self.family.chat.image)

    @property
    def cell(self) -> int:
        """Pixels on a side of one image token."""
        return self.family.vision.cell

    def allowed_ids(self) -> list[int]:
        """Return the ids the policy may sample, ascending: ordinary tokens and the end of a turn.

        A sampled `<|image_pad|>` would be a prompt without an image, so control tokens are left
        out. Ids beyond the tokenizer, in a padded vocabulary, are left out too.
        """
        known = set(self.tokenizer.get_vocab().values())
        ordinary = known - control_ids(self.tokenizer)
        return sorted(ordinary | {self.end_id})

    def text(self, text: str) -> list[int]:
        """Return the ids of plain text, as `text_ids`, cached: dialogues repeat a few texts."""
        if text not in self._ids_of_text:
            if len(self._ids_of_text) > REMEMBERED:
                self._ids_of_text.clear()
            self._ids_of_text[text] = tuple(self._text(text))
        return list(self._ids_of_text[text])

    def _text(self, text: str) -> list[int]:
        if not self._sayable:
            return text_ids(self.tokenizer, text)
        names = "|".join(re.escape(name) for name in self._sayable)
        ids: list[int] = []
        # With a group in the pattern, the tokens themselves are every second piece.
        for piece in re.split(f"({names})", text):
            if piece in self._sayable:
                ids.append(self._sayable[piece])
            elif piece:
                ids += text_ids(self.tokenizer, piece)
        return ids

    def image_tokens(self, view: View) -> int:
        """Return the number of tokens of a view.

        Raises:
            ValueError: a size that the family's image processor would change.
        """
        return self.family.vision.tokens(view.height, view.width)

    def image(self, view: View, expanded: bool) -> list[int]:
        """Return the ids of an image: one placeholder, or with `expanded` one for each token."""
        count = self.image_tokens(view) if expanded else 1
        chat = self.family.chat
        return [
            self.id_of(chat.image_start),
            *[self.image_id] * count,
            self.id_of(chat.image_end),
        ]

    def user(
        self,
        content: Sequence[str | View],
        *,
        first: bool,
        expanded: bool,
    ) -> list[int]:
        """Return the ids of a user turn, including the mark that opens the assistant's answer.

        Args:
            content: text and images, in order.
            first: whether it opens the dialogue, after the system message; a later turn follows a
                completion that ended with `end_id`.
            expanded: True gives an image as many tokens as the model sees (learner), False gives
                one (vLLM's prompt).
        """
        ids = self._opening() if first else self.text("\n")
        ids += self._start_message("user")
        for piece in joined(content):
            if isinstance(piece, str):
                ids += self.text(piece)
            else:
                ids += self.image(piece, expanded)
        ids += self._end_message()
        ids += self._start_message("assistant")
        return ids

    def _start_message(self, role: str) -> list[int]:
        return [self.id_of(self.family.chat.turn_start), *self.text(f"{role}\n")]

    def _end_message(self) -> list[int]:
        return [self.end_id, *self.text("\n")]

    def _opening(self) -> list[int]:
        """Return the ids of the system message; none without one."""
        if not self.system_message:
            return []
        message = self.text(self.system_message)
        return self._start_message("system") + message + self._end_message()

    def completion(self, text: str) -> list[int]:
        """Return the ids of a whole answer, as if it had been sampled; for demonstrations."""
        return [*self.text(text), self.end_id]

    def decode(self, completion_ids: Sequence[int]) -> str:
        """Return the text of sampled ids, without the end-of-turn token.

        Undecodable bytes become U+FFFD.
        """
        ids = list(completion_ids)
        if ids and ids[-1] == self.end_id:
            ids.pop()
        text = self.tokenizer.decode(
            ids,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return str(text)
