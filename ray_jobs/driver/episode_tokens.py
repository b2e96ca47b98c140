"""Tokens of a whole episode, before an engine starts: every turn's prompt and a full answer to it.

The system plays against a script: the answers of its own demonstration, read as if the policy had
given them. Every prompt is then the real one, and every answer counts with its whole budget.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema import Config
from core.masks import encode
from core.types import Sample, System, Target, Turn, Video, View, Vision
from models.dialogue import Dialogue
from models.prompt_tokens import Content, PromptTokens, count_prompt

# Without a tokenizer: characters of a token, low for English so that counts err to the long side,
# and tokens of the marks around a message.
CHARACTERS = 3.5
MARKS = 8
# Demonstrations are random; the longest of this many counts.
TRIES = 8
# A sample for arithmetic without data: a 720p video, a target of a ninth of the frame, and a query
# longer than most.
VIDEO_HW = (720, 1280)
FRAMES = 96
QUERY = (
    "the person in the dark jacket who walks from the left to the right behind the parked cars "
    "and then picks up the bag"
)

# From content, `first` and the budget of the answer to tokens.
Counter = Callable[[Content, bool, int], PromptTokens]


@dataclass(frozen=True)
class EpisodeTokens:
    """The turns of the longest episode that was found.

    Attributes:
        turns: tokens of each turn, the budgets of the answers included.
        exact: False for an estimate without a tokenizer.
        samples: number of samples of the data set; 0 for the sample of arithmetic.
    """

    turns: tuple[PromptTokens, ...]
    exact: bool
    samples: int

    @property
    def first(self) -> PromptTokens:
        """The first prompt, which a group shares."""
        return self.turns[0]

    @property
    def total(self) -> int:
        """Tokens of a dialogue with full answers: what `rollout.max_model_len` must hold."""
        return sum(turn.total for turn in self.turns)

    def row(self, group_size: int) -> int:
        """Return the tokens of a row with one whole group, its first prompt once."""
        return self.first.prompt + group_size * (self.total - self.first.prompt)


def exact_counter(dialogue: Dialogue) -> Counter:
    """Return a counter with the policy's tokenizer."""

    def count(content: Content, first: bool, answer: int) -> PromptTokens:
        return count_prompt(dialogue, content, first=first, answer=answer)

    return count


def estimating_counter(vision: Vision, system_message: str) -> Counter:
    """Return a counter without a tokenizer: visual tokens are exact, text is estimated."""

    def count(content: Content, first: bool, answer: int) -> PromptTokens:
        views = [piece for piece in content if isinstance(piece, View)]
        texts = [piece for piece in content if isinstance(piece, str)]
        if first and system_message:
            texts.append(system_message)
        visual = sum(vision.tokens(view.height, view.width) for view in views)
        characters = sum(len(text) for text in texts)
        text = math.ceil(characters / CHARACTERS) + MARKS + 2 * len(views)
        return PromptTokens(text, visual, len(views), answer)

    return count


def longest_episode(
    system: System, samples: Sequence[Sample], counter: Counter, exact: bool
) -> EpisodeTokens:
    """Return the longest episode over some samples, or over the sample of arithmetic.

    Raises:
        ValueError: an image of a size that the family does not take.
    """
    found: list[tuple[PromptTokens, ...]] = []
    for sample in samples or [plain_sample()]:
        for seed in range(TRIES):
            found.append(_turns(system, sample, counter, np.random.default_rng(seed)))
    longest = max(found, key=_total)
    return EpisodeTokens(longest, exact, len(samples))


def plain_sample() -> Sample:
    """Return the sample for arithmetic without data."""
    height, width = VIDEO_HW
    names = tuple(f"{number:05d}" for number in range(FRAMES))
    mask_HW = np.zeros(VIDEO_HW, dtype=bool)
    mask_HW[: height // 3, : width // 3] = True
    target = Target("1", (encode(mask_HW),) * FRAMES)
    return Sample("any/0", Video("any", "any", names, height, width), QUERY, (target,))


def _total(turns: Sequence[PromptTokens]) -> int:
    return sum(turn.total for turn in turns)


def _turns(
    system: System, sample: Sample, counter: Counter, rng: np.random.Generator
) -> tuple[PromptTokens, ...]:
    try:
        answers = [answer for _, answer in system.demonstrate(sample, rng)]
    except ValueError:
        # Nothing to point at: the episode ends with its first answer.
        answers = []
    script = _Script(answers, counter)
    asyncio.run(system.play(system.shown(sample, rng), script))
    return tuple(script.turns)


class _Script:
    """An `Ask` that answers from a script, then with nothing, and counts every message."""

    version = 0

    def __init__(self, answers: Sequence[str], counter: Counter) -> None:
        self.answers = list(answers)
        self.counter = counter
        self.turns: list[PromptTokens] = []

    async def __call__(self, content: Content, *, max_tokens: int, trainable: bool = True) -> Turn:
        number = len(self.turns)
        self.turns.append(self.counter(content, number == 0, max_tokens))
        text = self.answers[number] if number < len(self.answers) else ""
        return _turn(text, trainable)

    async def auxiliary(
        self, content: Content, *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        """Answer nothing: dialogues of their own are no part of the episode."""
        return _turn("", trainable=False)

    def count(self, text: str) -> int:
        """Return 0: nobody looks at the length of a scripted answer."""
        return 0


def _turn(text: str, trainable: bool) -> Turn:
    nothing: tuple[int, ...] = ()
    return Turn(nothing, nothing, (), text, (), complete=True, version=0, trainable=trainable)


def token_problems(cfg: Config, tokens: EpisodeTokens) -> list[str]:
    """Return what does not fit, with a remedy each."""
    problems = []
    if tokens.total > cfg.rollout.max_model_len:
        problems.append(
            f"rollout.max_model_len={cfg.rollout.max_model_len}: an episode has up to "
            f"{tokens.total} tokens ({_words(tokens)}); raise it, or show fewer or smaller frames"
        )
    if tokens.total > cfg.learner.row_tokens:
        problems.append(
            f"learner.row_tokens={cfg.learner.row_tokens}: a single episode has up to "
            f"{tokens.total} tokens, and a row holds at least one: raise it to that"
        )
    return problems


def _words(tokens: EpisodeTokens) -> str:
    turns = [f"{turn.prompt} + answer of {turn.answer}" for turn in tokens.turns]
    return ", then ".join(turns)
