"""One-turn dialogues with the same images, packed into one row.

    [common prompt | rest of prompt 1, answer 1 | rest of prompt 2, answer 2 | ...]

A branch sees the common prompt and itself (`Rows.seen`). So a row costs hardly more than one
dialogue and equals the dialogues one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core.batch import mrope_positions

# Rows are padded to a multiple of this length.
MULTIPLE = 16

# Height and width of an image, in tokens.
Grid = tuple[int, int]


@dataclass(frozen=True)
class OneTurn:
    """A question with images, and its answer.

    Attributes:
        prompt_ids: Tokens, image placeholders expanded.
        answer_ids: Tokens.
        weights: Weight of each answer token in the loss.
        values: Number of each coordinate token of the answer; -1 elsewhere.
    """

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    weights: Sequence[float]
    values: Sequence[int]


@dataclass(frozen=True)
class Rows:
    """B rows of T tokens.

    Attributes:
        branch_BT: 0 in the common prompt, 1 and up in the branches, -1 in the padding.
        weight_BT: Weight of predicting the token at this place from the one before it.
        value_BT: Number of a coordinate token; -1 elsewhere.
    """

    ids_BT: torch.Tensor
    positions_BT3: torch.Tensor
    branch_BT: torch.Tensor
    weight_BT: torch.Tensor
    value_BT: torch.Tensor

    def seen(self) -> torch.Tensor:
        """Return (B, T, T): True if a token may look at another."""
        t = self.ids_BT.shape[1]
        of_query = self.branch_BT[:, :, None]
        of_key = self.branch_BT[:, None]
        causal = torch.ones(t, t, dtype=torch.bool).tril()
        return causal & ((of_key == 0) | (of_key == of_query))


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the shared start of all prompts.

    At least one token of each is left to its branch: an answer's first token is predicted from
    within the branch.
    """
    least = min(len(prompt) for prompt in prompts) - 1
    first = np.asarray(prompts[0][:least])
    same_T = np.ones(least, dtype=bool)
    for prompt in prompts[1:]:
        same_T &= np.asarray(prompt[:least]) == first
    if same_T.all():
        return least
    return int(same_T.argmin())


def pack(lessons: Sequence[tuple[Sequence[OneTurn], Sequence[Grid]]], image_id: int) -> Rows:
    """Pack one row a lesson.

    Args:
        lessons: The dialogues of each row with the grids of their images, all in the common prompt.
    """
    rows = [_Row(dialogues, grids, image_id) for dialogues, grids in lessons]
    longest = max(len(row.ids) for row in rows)
    width = -(-longest // MULTIPLE) * MULTIPLE
    return Rows(
        ids_BT=_stack([row.ids for row in rows], width, 0),
        positions_BT3=_stack([row.positions for row in rows], width, 0),
        branch_BT=_stack([row.branch for row in rows], width, -1),
        weight_BT=_stack([row.weight for row in rows], width, 0.0),
        value_BT=_stack([row.value for row in rows], width, -1),
    )


def _stack(arrays: list[np.ndarray], width: int, fill: float) -> torch.Tensor:
    """Pad arrays to `width` along their first axis, and stack them."""
    padded = []
    for array in arrays:
        widths = [(0, width - len(array))] + [(0, 0)] * (array.ndim - 1)
        padded.append(np.pad(array, widths, constant_values=fill))
    return torch.from_numpy(np.stack(padded))


class _Row:
    """The arrays of one row, without padding."""

    def __init__(self, dialogues: Sequence[OneTurn], grids: Sequence[Grid], image_id: int) -> None:
        shared = common_length([one.prompt_ids for one in dialogues])
        start = np.asarray(dialogues[0].prompt_ids[:shared], dtype=np.int64)
        start_positions = mrope_positions(start, grids, image_id)
        after = int(start_positions.max()) + 1

        ids = [start]
        positions = [start_positions.T]
        branch = [np.zeros(shared, np.int64)]
        weight = [np.zeros(shared, np.float32)]
        value = [np.full(shared, -1)]
        for number, one in enumerate(dialogues, 1):
            rest = one.prompt_ids[shared:]
            assert image_id not in rest, "an image after the common prompt"
            length = len(rest) + len(one.answer_ids)
            ids.append(np.array([*rest, *one.answer_ids], dtype=np.int64))
            # Positions of every branch restart after the common prompt.
            positions.append(np.repeat(after + np.arange(length)[:, None], 3, axis=1))
            branch.append(np.full(length, number))
            weights = [0.0] * len(rest) + list(one.weights)
            weight.append(np.array(weights, dtype=np.float32))
            values = [-1] * len(rest) + list(one.values)
            value.append(np.array(values, dtype=np.int64))

        self.ids = np.concatenate(ids)
        self.positions = np.concatenate(positions)
        self.branch = np.concatenate(branch)
        self.weight = np.concatenate(weight)
        self.value = np.concatenate(value)
