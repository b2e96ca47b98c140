"""The ideal dialogue of VideoSEG-O3, from the ground truth or from the data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from core.masks import boxes_areas
from core.parsing import plain
from core.types import Sample, Vision
from systems.base import Content, Demonstration, describe
from systems.videoseg_o3.answers import read_turn
from systems.videoseg_o3.options import VideoSegO3Options
from systems.videoseg_o3.prompts import ask_first, ask_more, ask_task
from systems.videoseg_o3.traces import plan_search, write_search


def completions(sample: Sample, max_turns: int, rng: np.random.Generator) -> list[str]:
    """Return the ideal completion of each turn.

    The dialogue of the data if the notes hold one (VTS-CoT); else a coarse-to-fine search of 1 to
    `max_turns` turns.

    Raises:
        ValueError: the targets are in no frame.
    """
    conversations = sample.notes.conversations
    if conversations is not None:
        return [turn["value"] for turn in conversations if turn["from"] == "gpt"]
    _, areas_F = boxes_areas(sample)
    looks = plan_search(areas_F, int(rng.integers(1, max_turns + 1)), rng)
    thought = plain(sample.notes.thought or sample.query)
    return write_search(looks, describe(sample), thought)


def task_dialogue(sample: Sample, options: VideoSegO3Options, vision: Vision) -> Demonstration:
    """Return the dialogue of a sample about another task (`Notes.task`), from the data."""
    conversations = sample.notes.conversations or ()
    said = [turn["value"] for turn in conversations]
    questions: list[Content] = [[question] for question in said[::2]]
    questions[0] = ask_task(sample, said[0], options, vision)
    return tuple(zip(questions, said[1::2], strict=True))


def dialogue(
    sample: Sample, texts: Sequence[str], options: VideoSegO3Options, vision: Vision
) -> Demonstration:
    """Return the dialogue with these completions.

    Raises:
        ValueError: this system cannot play it: too many turns, or a turn that selects nothing.
    """
    most = options.max_turns
    if not 1 <= len(texts) <= most:
        raise ValueError(
            f"sample {sample.uid!r}: a dialogue of {len(texts)} turns; max_turns is {most}"
        )
    turns = [(ask_first(sample, options, vision), texts[0])]
    for number, (before, text) in enumerate(itertools.pairwise(texts), start=2):
        look = read_turn(before, sample.video.num_frames).select
        if look is None:
            raise ValueError(
                f"sample {sample.uid!r}: turn {number - 1} selects nothing readable: "
                f"{before[-200:]!r}"
            )
        question = ask_more(sample, look, options, vision, last=number == most)
        turns.append((question, text))
    return tuple(turns)
