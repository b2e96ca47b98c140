"""Rewards for the form of a written answer: its tags, the keys of its objects, no repetition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_THOUGHT_THEN_ANSWER = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def think_format(texts_G: Sequence[str]) -> Tensor:
    """Return 1 for a think block, white space and an answer block, else 0; float64 (G,).

    Source: VisionReasoner's thinking format, with its oddity: only the two ends and the seam are
    checked. Tags inside a block do no harm, and white space around the whole costs the reward.
    """
    matches_G = [_THOUGHT_THEN_ANSWER.fullmatch(text) is not None for text in texts_G]
    return torch.tensor(matches_G, dtype=torch.float64)


def answer_format(answers_G: Sequence[Any], lengths: Mapping[str, int]) -> Tensor:
    """Return the mean number of well-formed keys over an answer's objects; float64 (G,).

        r = 1/M sum_i sum_key 1[object_i[key] is a list of lengths[key] entries]

    r is in [0, len(lengths)]. Only the length of a key's list counts, not its content. An object
    other than a dictionary earns 0. An empty list, or any other value than a list, earns 0.

    Source: VisionReasoner's answer format with {"bbox_2d": 4, "point_2d": 2}.

    Args:
        answers_G: JSON value of each answer, None without one.
        lengths: wanted length of the list under each key.
    """
    rewards_G = [_mean_well_formed(answer, lengths) for answer in answers_G]
    return torch.tensor(rewards_G, dtype=torch.float64)


def non_repeat(texts_G: Sequence[str]) -> Tensor:
    """Return 1 for a text with at most one repeated sentence, else 0; float64 (G,).

    Sentences are the pieces between full stops, stripped; empty ones do not count. So a number with
    a decimal point ends a sentence, and the answer's JSON belongs to the last one. An empty text
    repeats nothing: 1.

    Source: VisionReasoner's non-repeat reward; "fewer than two repeats" in VideoSeg-R1's figure.
    """
    rewards_G = []
    for text in texts_G:
        pieces = [piece.strip() for piece in text.split(".")]
        sentences = [piece for piece in pieces if piece]
        repeats = len(sentences) - len(set(sentences))
        rewards_G.append(float(repeats < 2))
    return torch.tensor(rewards_G, dtype=torch.float64)


def _mean_well_formed(answer: Any, lengths: Mapping[str, int]) -> float:
    if not isinstance(answer, list) or not answer:
        return 0.0
    return sum(_well_formed(row, lengths) for row in answer) / len(answer)


def _well_formed(row: Any, lengths: Mapping[str, int]) -> int:
    """Number of keys with a list of the wanted length."""
    if not isinstance(row, dict):
        return 0
    count = 0
    for key, length in lengths.items():
        value = row.get(key)
        if isinstance(value, list) and len(value) == length:
            count += 1
    return count
