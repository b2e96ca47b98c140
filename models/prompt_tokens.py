"""The tokens of a prompt, before any engine or learner starts.

    dialogue = load_dialogue(folder, system_message)
    count_prompt(dialogue, ["Find the dog.", View(0, 448, 448)])    # text 12, visual 256, images 1
    longest_prompt(dialogue, opening_questions(system, sample))     # the one with the most tokens

Pure and light: a tokenizer and arithmetic, no pixels and no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from core.types import Sample, System, Turn, View
from models.dialogue import Dialogue

# What a system may ask: text and frames in the order of reading.
Content = Sequence[str | View]


@dataclass(frozen=True)
class Question:
    """A user message of a system.

    Attributes:
        content: text and frames.
        max_tokens: of the answer; 0 for a demonstration, which has no budget.
        first: it opens a dialogue.
    """

    content: Content
    max_tokens: int = 0
    first: bool = True


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of one user message, with the marks around it.

    Attributes:
        text: tokens that are not of an image; the marks of images are among them.
        visual: tokens of images.
        images: number of images.
        answer: budget of the answer.
    """

    text: int
    visual: int
    images: int
    answer: int = 0

    @property
    def prompt(self) -> int:
        """Tokens before the answer: what the engine sees, and the learner's row holds."""
        return self.text + self.visual

    @property
    def total(self) -> int:
        """Tokens with a full answer."""
        return self.prompt + self.answer


def count_prompt(
    dialogue: Dialogue,
    content: Content,
    *,
    first: bool = True,
    answer: int = 0,
) -> PromptTokens:
    """Return the tokens of a user message.

    Args:
        dialogue: tokenizer and family of the policy.
        content: text and frames.
        first: it opens the dialogue; a later message has no system message.
        answer: budget of its answer.

    Raises:
        ValueError: an image of a size that the family does not take.
    """
    views = [piece for piece in content if isinstance(piece, View)]
    visual = sum(dialogue.image_tokens(view) for view in views)
    short = dialogue.user(content, first=first, expanded=False)
    # Each image stands there as one placeholder.
    return PromptTokens(len(short) - len(views), visual, len(views), answer)


def longest_prompt(dialogue: Dialogue, questions: Iterable[Question]) -> PromptTokens:
    """Return the tokens of the question with the most, its answer included."""
    counts = []
    for question in questions:
        count = count_prompt(
            dialogue, question.content, first=question.first, answer=question.max_tokens
        )
        counts.append(count)
    return max(counts, key=_total)


def _total(count: PromptTokens) -> int:
    return count.total


def opening_questions(system: System, sample: Sample) -> list[Question]:
    """Return what a system asks about a sample until its policy would have to answer.

    Those are the first message of the episode and, without hints, of auxiliary dialogues. Needs no
    pixels and no ground truth.
    """
    listener = _Listener()
    asyncio.run(system.play(sample.bare, listener))
    return listener.heard


def demonstrated_questions(
    system: System, sample: Sample, rng: np.random.Generator
) -> list[Question]:
    """Return the user messages of the ideal dialogue, later turns among them.

    Raises:
        ValueError: the sample has nothing to point at.
    """
    questions = []
    for number, (content, _) in enumerate(system.demonstrate(sample, rng)):
        questions.append(Question(content, first=number == 0))
    return questions


class _Listener:
    """An `Ask` that writes the questions down and answers nothing, so that an episode ends."""

    version = 0

    def __init__(self) -> None:
        self.heard: list[Question] = []

    async def __call__(
        self,
        content: Content,
        *,
        max_tokens: int,
        trainable: bool = True,
    ) -> Turn:
        self.heard.append(Question(tuple(content), max_tokens))
        nothing: tuple[int, ...] = ()
        return Turn(
            nothing, nothing, (), "", (), complete=True, version=self.version, trainable=trainable
        )

    async def auxiliary(
        self,
        content: Content,
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> Turn:
        return await self(content, max_tokens=max_tokens, trainable=False)

    def count(self, text: str) -> int:
        """Return 0: nothing is answered."""
        return 0
