"""Rewards for the form of a written answer: thought and answer tags, the keys of its objects, no repetition.

They read text and the JSON value in it; they know no image, no truth and no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_THOUGHT_THEN_ANSWER = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def think_format(texts_G: Sequence[str]) -> Tensor:
    """1 where the whole text is a think block, optional white space, and an answer block; else 0. Float64 (G,).

    Source: VisionReasoner's thinking format. Its oddity is kept: only the two ends and the seam are looked at, so tags
    that stand once more inside a block do no harm, and white space before or after the whole costs the reward.
    """
    return _column([_THOUGHT_THEN_ANSWER.fullmatch(text) is not None for text in texts_G])


def answer_format(answers_G: Sequence[Any], lengths: Mapping[str, int]) -> Tensor:
    """Mean over an answer's objects of how many of the wanted keys hold a list of the wanted length. Float64 (G,).

        r = 1/M sum_i sum_key 1[object_i[key] is a list of lengths[key] entries]          in [0, len(lengths)]

    answers_G: the JSON value of each answer, None where there was none. Of one key only the length of its list counts,
    not what is in it. An object that is no dictionary earns 0; an empty list, or anything but a list, earns 0.

    Source: VisionReasoner's answer format with {"bbox_2d": 4, "point_2d": 2}.
    """
    return _column([_share(answer, lengths) for answer in answers_G])


def non_repeat(texts_G: Sequence[str]) -> Tensor:
    """1 for a text of which at most one sentence says again what was said before, else 0. Float64 (G,).

    A sentence is what stands between full stops, stripped, if anything is left. So numbers with a decimal point count
    as two sentences, and the answer's JSON belongs to the last one. An empty text repeats nothing: 1.

    Source: VisionReasoner's non-repeat reward; "fewer than two repeats" in VideoSeg-R1's figure.
    """
    sentences_G = [[s for part in text.split(".") if (s := part.strip())] for text in texts_G]
    return _column([len(sentences) - len(set(sentences)) < 2 for sentences in sentences_G])


def _share(answer: Any, lengths: Mapping[str, int]) -> float:
    if not isinstance(answer, list) or not answer:
        return 0.0
    return sum(_kept(row, lengths) for row in answer) / len(answer)


def _kept(row: Any, lengths: Mapping[str, int]) -> int:
    if not isinstance(row, dict):
        return 0
    return sum(
        isinstance(row.get(key), list) and len(row[key]) == length
        for key, length in lengths.items()
    )


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)
