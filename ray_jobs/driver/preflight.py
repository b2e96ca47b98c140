"""Checks of prompts before any engine starts: engine and learner must count the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.setup import system_message
from configs.load import resolve
from configs.schema import Config
from core.collector import without_collector
from core.types import Sample, System, View
from models.prompt_tokens import (
    PromptTokens,
    Question,
    count_prompt,
    demonstrated_questions,
    opening_questions,
)

# It imports transformers, which takes seconds.
if TYPE_CHECKING:
    from models.engine.counting import EngineCounter

# Samples of a split whose prompts are counted.
FIRST = 4


@dataclass(frozen=True)
class CountedPrompts:
    """Prompts of the first samples, equally long in engine and learner.

    Attributes:
        prompts: Their number.
        longest: The one with the most tokens.
    """

    prompts: int
    longest: PromptTokens

    def __str__(self) -> str:
        longest = self.longest
        return (
            f"longest of {self.prompts} prompts: {longest.prompt} tokens, {longest.visual} of them "
            f"of {longest.images} images, the same in engine and learner"
        )


def check_prompts(
    cfg: Config, system: System, splits: Iterable[Sequence[Sample]]
) -> CountedPrompts:
    """Count prompts of the first samples as the engine and as the learner will see them.

    Args:
        cfg: A checked configuration.
        system: The author of the prompts.
        splits: The samples of each split of the job.

    Raises:
        ValueError: A size that the policy does not take, or two counts.
    """
    with without_collector():
        from models.dialogue import load_dialogue
        from models.engine.counting import EngineCounter
        from models.policy.pixels import Pixels

    folder = resolve(cfg.policy.path)
    engine = EngineCounter(folder, load_dialogue(folder, system_message(cfg)))
    counts = [PromptTokens(0, 0, 0)]
    sizes: set[tuple[int, int]] = set()
    for sample, question in _questions(system, splits):
        counts.append(check_prompt(folder, engine, sample, question))
        sizes |= _sizes(question)

    # The learner makes patches of its own; it refuses a size that it would change.
    learner = Pixels(folder)
    for height, width in sorted(sizes):
        learner([np.zeros((height, width, 3), np.uint8)])
    longest = max(counts, key=_prompt)
    return CountedPrompts(len(counts) - 1, longest)


def check_prompt(
    folder: Path, engine: EngineCounter, sample: Sample, question: Question
) -> PromptTokens:
    """Return the tokens of one prompt, the same in engine and learner.

    Raises:
        ValueError: A size that the policy does not take, or two counts.
    """
    count = count_prompt(engine.dialogue, question.content, first=question.first)
    seen = engine.prompt(question.content, first=question.first)
    if seen != count.prompt:
        raise ValueError(two_counts(folder, engine, sample, question, seen, count))
    return count


def _sizes(question: Question) -> set[tuple[int, int]]:
    """Return height and width of the images of a question."""
    views = [piece for piece in question.content if isinstance(piece, View)]
    return {(view.height, view.width) for view in views}


def _prompt(count: PromptTokens) -> int:
    return count.prompt


def _questions(
    system: System, splits: Iterable[Sequence[Sample]]
) -> Iterator[tuple[Sample, Question]]:
    """Yield the questions about the first samples of each split."""
    rng = np.random.default_rng(0)
    for samples in splits:
        for sample in samples[:FIRST]:
            for question in opening_questions(system, sample):
                yield sample, question
            try:
                later = demonstrated_questions(system, sample, rng)
            except ValueError:
                # `demonstrate` documents this as: the sample has nothing to point at.
                continue
            for question in later:
                yield sample, question


def two_counts(
    folder: Path,
    engine: EngineCounter,
    sample: Sample,
    question: Question,
    seen: int,
    count: PromptTokens,
) -> str:
    """Return the message of a prompt with one count in the engine and another in the learner."""
    differing = []
    for height, width in sorted(_sizes(question)):
        there = engine.tokens_of_size(height, width)
        here = engine.dialogue.family.vision.tokens(height, width)
        if there != here:
            differing.append(f"{height} x {width} pixels: {there} against {here} tokens")
    found = engine.processor
    cell = engine.dialogue.cell
    return (
        f"sample {sample.uid!r}: the engine would see a prompt of {seen} tokens, the learner "
        f"{count.prompt} ({'; '.join(differing)}). The image processor in {folder} has "
        f"patch_size {found.patch_size} and merge_size {found.merge_size}, config.json "
        f"{cell} pixels a token: copy preprocessor_config.json of the policy's own model there"
    )
