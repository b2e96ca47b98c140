"""Dialogues of one turn that share their images, as one row: [common prompt | rest, answer 1 | rest, answer 2 ...].

A branch sees the common prompt and itself (`Rows.seen`), so a row costs hardly more than one dialogue and equals the
dialogues one by one. This file knows numbers only: no tokens' meaning, no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core.batch import mrope_positions

MULTIPLE = 16  # rows are padded to a multiple of it


@dataclass(frozen=True)
class Dialogue1:
    """A question with images and its answer."""

    prompt_ids: Sequence[int]  # image placeholders expanded
    answer_ids: Sequence[int]
    weights: Sequence[float]  # of each answer token in the loss
    values: Sequence[int]  # of each answer token that is a coordinate; -1 elsewhere


@dataclass(frozen=True)
class Rows:
    """B rows of T tokens. `branch` is 0 in the common prompt, 1.. in the branches and -1 in the padding."""

    ids_BT: torch.Tensor
    positions_BT3: torch.Tensor
    branch_BT: torch.Tensor
    weight_BT: torch.Tensor  # of predicting the token at this place from the one before it
    value_BT: torch.Tensor

    def seen(self) -> torch.Tensor:
        """(B, T, T): True where a token may look."""
        t = self.ids_BT.shape[1]
        of_query = self.branch_BT[:, :, None]
        of_key = self.branch_BT[:, None]
        return torch.ones(t, t, dtype=torch.bool).tril() & ((of_key == 0) | (of_key == of_query))


def common(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the prompt that all share; at least one token of each is left to its branch, so that what predicts an
    answer's first token always stands in the branch."""
    least = min(len(prompt) for prompt in prompts) - 1
    same_T = np.ones(least, dtype=bool)
    first = np.asarray(prompts[0][:least])
    for prompt in prompts[1:]:
        same_T &= np.asarray(prompt[:least]) == first
    return least if same_T.all() else int(same_T.argmin())


def pack(
    lessons: Sequence[tuple[Sequence[Dialogue1], Sequence[tuple[int, int]]]], image_id: int
) -> Rows:
    """Rows of dialogues. Each row's dialogues come with the grids (rows, columns of tokens) of their images, which must
    all lie in what the prompts share."""
    rows = [_row(dialogues, grids, image_id) for dialogues, grids in lessons]
    width = -(-max(len(row[0]) for row in rows) // MULTIPLE) * MULTIPLE
    padding = (0, 0, -1, 0.0, -1)
    columns = [
        np.stack(
            [
                np.pad(
                    row[k],
                    [(0, width - len(row[k])), *[(0, 0)] * (row[k].ndim - 1)],
                    constant_values=fill,
                )
                for row in rows
            ]
        )
        for k, fill in enumerate(padding)
    ]
    return Rows(*(torch.from_numpy(column) for column in columns))


def _row(
    dialogues: Sequence[Dialogue1], grids: Sequence[tuple[int, int]], image_id: int
) -> tuple[np.ndarray, ...]:
    shared = common([d.prompt_ids for d in dialogues])
    assert all(image_id not in d.prompt_ids[shared:] for d in dialogues), (
        "an image after the common prompt"
    )
    start = np.asarray(dialogues[0].prompt_ids[:shared], dtype=np.int64)
    positions = mrope_positions(start, grids, image_id)
    origin = int(positions.max()) + 1
    parts = [
        (
            start,
            positions.T,
            np.zeros(shared, np.int64),
            np.zeros(shared, np.float32),
            np.full(shared, -1),
        )
    ]
    for k, d in enumerate(dialogues):
        rest = len(d.prompt_ids) - shared
        ids = np.array([*d.prompt_ids[shared:], *d.answer_ids], dtype=np.int64)
        at = np.repeat(origin + np.arange(len(ids))[:, None], 3, axis=1)
        weight = np.array([*[0.0] * rest, *d.weights], dtype=np.float32)
        parts.append(
            (
                ids,
                at,
                np.full(len(ids), k + 1),
                weight,
                np.array([*[-1] * rest, *d.values], dtype=np.int64),
            )
        )
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
