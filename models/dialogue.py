"""Chat turns as token ids: the one place where a dialogue becomes tokens.

Engine, learner, warm start and pretraining all build their prompts here, so they cannot disagree. Pieces of text are
tokenised one by one and concatenated, never as a rendered whole, and text never becomes a control token: a query that
contains "<|image_pad|>" is spelled out in ordinary tokens. The layout is Qwen2.5-VL's, without its default system
message:

    <|im_start|>user\\n{content}<|im_end|>\\n<|im_start|>assistant\\n{completion}<|im_end|>\\n<|im_start|>user\\n ...

This file knows no model weights, no pixels and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.types import View

REMEMBERED = 10_000  # texts whose ids are kept
START = "<|im_start|>"
END = "<|im_end|>"
VISION_START = "<|vision_start|>"
IMAGE = "<|image_pad|>"
VISION_END = "<|vision_end|>"


def tokens_of(view: View, merge: int = 28) -> int:
    """Number of language-model tokens of a view: one for each merge x merge square of pixels.

    Raises:
        ValueError: the view's sides are not multiples of `merge`.
    """
    if view.height <= 0 or view.width <= 0 or view.height % merge or view.width % merge:
        raise ValueError(
            f"view of {view.height} x {view.width} pixels: both sides must be positive multiples of {merge} "
            "(patch size x merge size of the vision tower); change the system's frame size"
        )
    return (view.height // merge) * (view.width // merge)


def control_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokenizer's control tokens (`special: true`): dialogue marks, vision marks and the like."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def allowed_ids(tokenizer: Any) -> list[int]:
    """Ids the policy may sample, ascending: every ordinary token and the end-of-turn token.

    Control tokens are left out because a sampled `<|image_pad|>` is a prompt that no image belongs to. Ids beyond the
    tokenizer, which exist only because vocabularies are padded, are not in its vocabulary and so left out too.
    """
    end = tokenizer.convert_tokens_to_ids(END)
    return sorted((set(tokenizer.get_vocab().values()) - control_ids(tokenizer)) | {end})


@dataclass(frozen=True)
class Dialogue:
    """Token ids of turns for one tokenizer (of the Qwen2 family, from the policy's folder)."""

    tokenizer: Any
    merge: int = 28  # pixels on a side of one image token
    _known: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    _marks: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for mark in (START, END, VISION_START, IMAGE, VISION_END):
            if self.tokenizer.convert_tokens_to_ids(mark) not in control_ids(self.tokenizer):
                raise ValueError(
                    f"the policy's tokenizer has no control token {mark}: a Qwen2-VL tokenizer is needed"
                )

    def id_of(self, mark: str) -> int:
        if mark not in self._marks:
            self._marks[mark] = int(self.tokenizer.convert_tokens_to_ids(mark))
        return self._marks[mark]

    @property
    def end_id(self) -> int:
        """Of the end-of-turn token."""
        return self.id_of(END)

    @property
    def image_id(self) -> int:
        return self.id_of(IMAGE)

    def text(self, text: str) -> list[int]:
        """Ids of plain text; control tokens spelled in it stay text. The same few texts come again and again."""
        if text not in self._known:
            if len(self._known) > REMEMBERED:
                self._known.clear()
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
            self._known[text] = tuple(ids)
        return list(self._known[text])

    def image(self, view: View, expanded: bool) -> list[int]:
        pads = tokens_of(view, self.merge) if expanded else 1
        return [self.id_of(VISION_START), *[self.image_id] * pads, self.id_of(VISION_END)]

    def user(
        self, content: Sequence[str | View], *, first: bool, expanded: bool, system: str = ""
    ) -> list[int]:
        """A user turn, up to and including the mark that opens the assistant's answer.

        Args:
            content: text and images, in order.
            first: whether it opens the dialogue; a later turn follows a completion that ended with `end_id`.
            expanded: True gives an image as many tokens as the model sees (learner), False one (vLLM's prompt).
            system: message before the first turn; empty for none.
        """
        assert first or not system, "a system message stands only before the first turn"
        start = self.id_of(START)
        end = self.end_id
        ids = [] if first else self.text("\n")
        if system:
            ids += [start, *self.text("system\n"), *self.text(system), end, *self.text("\n")]
        ids += [start, *self.text("user\n")]
        for piece in content:
            ids += self.text(piece) if isinstance(piece, str) else self.image(piece, expanded)
        return [*ids, end, *self.text("\n"), start, *self.text("assistant\n")]

    def completion(self, text: str) -> list[int]:
        """A whole assistant answer, as if it had been sampled: for demonstrations."""
        return [*self.text(text), self.end_id]

    def decode(self, completion_ids: Sequence[int]) -> str:
        """Text of sampled ids, without the end-of-turn token. Undecodable bytes become U+FFFD."""
        ids = (
            completion_ids[:-1]
            if completion_ids and completion_ids[-1] == self.end_id
            else completion_ids
        )
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
