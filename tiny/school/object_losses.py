"""Losses of object lessons: next tokens by weight, with softened coordinates."""

from __future__ import annotations

import numpy as np
import torch

from core.types import View
from models.dialogue import Dialogue
from tiny.school.batched import Batched
from tiny.school.object_lessons import Dialogues
from tiny.school.rows import Grid, OneTurn, Rows
from tiny.school.speaker import grids_of
from tiny.world.scene import SIDE

# Pixels by which coordinates are softened.
SIGMA = 0.8
# Weights of an answer's tokens.
COMMA = 0.2
THOUGHT = 3.0
REST = 1.0


class Marker:
    """Tokenises lessons and weighs each answer token.

    Attributes:
        numbers: The token of each number, from 0 to the side of the target frame.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.numbers = [dialogue.text(str(i))[0] for i in range(SIDE + 1)]
        self.value_of = {token: value for value, token in enumerate(self.numbers)}
        self.comma = dialogue.text(",")[0]
        self.thought_ends = dialogue.text("</think>")[0]
        self.answer_opens = dialogue.text("<answer>")[0]

    def __call__(self, dialogues: Dialogues) -> tuple[list[OneTurn], list[Grid]]:
        """Return the dialogues in tokens, and the grids of their images."""
        views = [piece for piece in dialogues[0][0] if isinstance(piece, View)]
        turns = [self._one(content, answer) for content, answer in dialogues]
        return turns, grids_of(self.dialogue, views)

    def _one(self, content: list[str | View], answer: str) -> OneTurn:
        prompt = self.dialogue.user(content, first=True, expanded=True)
        ids = self.dialogue.completion(answer)
        thought_stop = ids.index(self.thought_ends) if self.thought_ends in ids else 0
        answer_start = ids.index(self.answer_opens) if self.answer_opens in ids else len(ids)

        weights = []
        values = []
        for place, token in enumerate(ids):
            if 0 < place < thought_stop:
                weights.append(THOUGHT)
            elif token == self.comma:
                weights.append(COMMA)
            else:
                weights.append(REST)
            is_coordinate = place > answer_start and token in self.value_of
            values.append(self.value_of[token] if is_coordinate else -1)
        return OneTurn(prompt, ids, weights, values)


class ObjectTutor:
    """The loss of rows of object lessons."""

    def __init__(self, net: Batched, marker: Marker) -> None:
        self.net = net
        self.numbers = torch.tensor(marker.numbers)
        values = torch.arange(SIDE + 1).float()
        soft_VV = torch.exp(-0.5 * ((values[:, None] - values[None]) / SIGMA) ** 2)
        self.soft_VV = soft_VV / soft_VV.sum(1, keepdim=True)

    def losses(self, rows: Rows, images: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return "loss", and figures to log, named "_...".

        The loss is the sum of weighted token losses over ten times the number of dialogues.
        """
        x = self.net.embed(rows.ids_BT, self._see(images))
        hidden_BTD, _, _ = self.net.read(x, rows.positions_BT3, seen_BTT=rows.seen())
        row, at = (rows.weight_BT > 0).nonzero(as_tuple=True)
        logp_NV = self.net.logits(hidden_BTD[row, at - 1]).log_softmax(-1)
        value_N = rows.value_BT[row, at]
        weight_N = rows.weight_BT[row, at]
        hard_N = -logp_NV.gather(-1, rows.ids_BT[row, at][:, None])[:, 0]
        soft_labels = self.soft_VV[value_N.clamp(min=0)]
        soft_N = -(soft_labels * logp_NV[:, self.numbers]).sum(-1)
        loss_N = torch.where(value_N >= 0, soft_N, hard_N)
        num_dialogues = int(rows.branch_BT.max(1).values.sum())
        return {
            "loss": (loss_N * weight_N).sum() / num_dialogues / 10,
            "_thought": _mean_of(loss_N, weight_N == THOUGHT),
            "_coordinate": _mean_of(loss_N, value_N >= 0),
            "_rest": _mean_of(loss_N, (weight_N == REST) & (value_N < 0)),
        }

    def _see(self, images: list[np.ndarray]) -> torch.Tensor:
        """Return the image tokens in order; the tower runs once for each size."""
        tokens: list[torch.Tensor] = [torch.empty(0)] * len(images)
        for side in {image.shape[0] for image in images}:
            same_size = [i for i, image in enumerate(images) if image.shape[0] == side]
            pixels = np.stack([images[i] for i in same_size])
            seen = self.net.see(torch.from_numpy(pixels))
            for i, image_tokens in zip(same_size, seen, strict=True):
                tokens[i] = image_tokens
        return torch.cat(tokens)


def _mean_of(loss_N: torch.Tensor, chosen_N: torch.Tensor) -> torch.Tensor:
    return loss_N.detach()[chosen_N].sum() / chosen_N.sum().clamp(min=1)
