"""Losses of pretraining: next tokens, softened coordinates, attention, facts of each frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tiny.school.batched import Batched, Cache
from tiny.school.facts import Facts, Heads, Tensors, shown_cells, unpack_bits
from tiny.school.lessons import Teacher
from tiny.school.script import SHOWN, THOUGHT

# Pixels by which coordinates are softened.
COORDINATE_SIGMA = 0.8
FRAME_WEIGHT = 5.0
# Decoder layer whose states the story head reads, and the attention head of the next layer that
# must look at image cells. `frame_heads` names those that must look at frames.
TAP = 3
CELL_HEAD = 1


@dataclass(frozen=True)
class Reading:
    """One pass over R dialogues of T tokens.

    Attributes:
        hidden_RTD: States of the last layer.
        tapped_RTD: States of layer TAP.
    """

    ids_RT: torch.Tensor
    positions_RT3: torch.Tensor
    hidden_RTD: torch.Tensor
    tapped_RTD: torch.Tensor
    cache: Cache


class Tutor:
    """Losses of a batch of lessons.

    Attributes:
        frame_heads: For each frame number of a dialogue, the attention head that must look at its
            frame; further numbers have none.
    """

    frame_heads: tuple[int, ...] = (0,)
    facts_type: type[Facts] = Facts

    def __init__(self, net: Batched, heads: Heads, teacher: Teacher, device: torch.device) -> None:
        self.net = net
        self.heads = heads
        self.facts = self.facts_type(net, heads, teacher, device)
        self.prefix_ids = torch.tensor(teacher.prefix.ids, device=device)
        self.prefix_positions = torch.tensor(teacher.prefix.positions, device=device)
        self.shown = torch.tensor(teacher.shown, device=device)
        self.numbers = torch.tensor(teacher.numbers, device=device)
        self.labels = self.facts.labels

        # The place after each frame's image, of the frames' first showing.
        starts = (self.prefix_ids == net.hf.config.vision_start_token_id).nonzero()[:, 0]
        small_grid = teacher.sizes.small // teacher.sizes.cell
        self.frame_ends = starts[:SHOWN] + small_grid**2 + 1
        self.key_grid = teacher.sizes.key // teacher.sizes.cell

        values = torch.arange(len(self.numbers), device=device).float()
        soft = torch.exp(-0.5 * ((values[:, None] - values[None]) / COORDINATE_SIGMA) ** 2)
        self.soft_VV = soft / soft.sum(1, keepdim=True)

    def prefix(self, small_BFHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image tokens of the shown frames (B * F, tokens, D), and the embedded prefix."""
        b = small_BFHWC.shape[0]
        images = self.net.see(small_BFHWC.flatten(0, 1))
        in_order = images.unflatten(0, (b, SHOWN))[:, self.shown]
        ids = self.prefix_ids.expand(b, -1)
        return images, self.net.embed(ids, in_order.flatten(0, 2))

    def losses(self, lesson: Tensors, dialogues: bool) -> Tensors:
        """Return the weighted parts of the loss, to be added up.

        Parts named "_..." are figures to log, detached.

        Args:
            dialogues: False teaches images and single boxes alone.
        """
        b = lesson["small"].shape[0]
        keys = self.net.see(lesson["keys"].flatten(0, 1))
        images, prefix = self.prefix(lesson["small"])
        small_box = lesson["box"].flatten(0, 1)
        small_visible = lesson["visible"].flatten(0, 1)
        parts = self.facts.images(images, small_box, small_visible, lesson, SHOWN, "_small")

        at = torch.arange(b, device=keys.device)[:, None]
        key_box = lesson["box"][at, lesson["key_frame"]].flatten(0, 1)
        key_visible = lesson["visible"][at, lesson["key_frame"]].flatten(0, 1)
        keyframes = keys.shape[0] // b
        parts |= self.facts.images(keys, key_box, key_visible, lesson, keyframes, "_key")
        key_cells = shown_cells(key_box, key_visible, self.key_grid)
        parts |= self._grounding(keys, key_cells, lesson)
        if not dialogues:
            return parts

        positions = self.prefix_positions.expand(b, -1, -1)
        _, cache, tapped = self.net.read(prefix, positions, tap=TAP)
        assert tapped is not None
        parts |= self.facts.story(tapped[:, self.frame_ends], lesson)
        parts["number"] = self.facts.number(tapped[:, self.frame_ends])
        ends_BFD = tapped[:, self.frame_ends]
        parts["align_ends"] = 2 * self.facts.align(ends_BFD, lesson["visible"])
        row_images = self.row_images(images, keys, lesson)
        parts |= self.dialogue_losses(row_images, key_cells, cache, lesson)
        return parts

    def row_images(self, images: torch.Tensor, keys: torch.Tensor, lesson: Tensors) -> torch.Tensor:
        """Return the image tokens of each dialogue after the prefix (R, tokens, D)."""
        return keys

    def _grounding(self, keys: torch.Tensor, cells: torch.Tensor, lesson: Tensors) -> Tensors:
        ids = lesson["ground_ids"].flatten(0, 1)
        reading = self._read(ids, lesson["ground_positions"].flatten(0, 1), keys)
        weight = lesson["ground_weight"].flatten(0, 1)
        value = lesson["ground_value"].flatten(0, 1)
        means = lesson["ground_means"].flatten(0, 1)
        loss, _ = self._token_losses(reading, weight, value)
        num_dialogues = (weight > 0).any(1).sum().clamp(min=1)
        row, at = _before_coordinates(value, means)
        return {
            "ground": loss.sum() / num_dialogues / 10,
            "means_ground": self._means(reading.tapped_RTD, means),
            "look_ground": self.look_at_cells(reading, cells, row, at, means[row, at + 1]),
        }

    def _read(
        self,
        ids_RT: torch.Tensor,
        positions_RT3: torch.Tensor,
        images: torch.Tensor,
        past: Cache | None = None,
    ) -> Reading:
        """Read dialogues with their images, after the cached prefix."""
        # A dialogue left empty has no image tokens; its image must not slide into the next row.
        used = (ids_RT == self.net.image_id).any(1)
        embedded = self.net.embed(ids_RT, images[used].flatten(0, 1))
        hidden_RTD, cache, tapped_RTD = self.net.read(embedded, positions_RT3, past=past, tap=TAP)
        assert tapped_RTD is not None
        return Reading(ids_RT, positions_RT3, hidden_RTD, tapped_RTD, cache)

    def look_at_cells(
        self,
        reading: Reading,
        cells_RSC: torch.Tensor,
        row_N: torch.Tensor,
        at_N: torch.Tensor,
        means_N: torch.Tensor,
    ) -> torch.Tensor:
        """Make one attention head look at the image cells of the meant colours.

        Args:
            cells_RSC: The colours shown by each of a row's S image tokens.
            row_N: Rows of the N places, before a coordinate, say.
            at_N: Their tokens.
            means_N: The colours meant there, as bits.
        """
        wanted_NC = unpack_bits(means_N).bool()
        share_NS = (wanted_NC[:, None] & cells_RSC[row_N]).any(-1).float()
        tokens = reading.ids_RT.shape[1]
        share_NT = torch.zeros(len(row_N), tokens, device=row_N.device)
        share_NT[(reading.ids_RT == self.net.image_id)[row_N]] = share_NS.flatten()

        states_ND = reading.tapped_RTD[row_N, at_N]
        positions_N3 = reading.positions_RT3[row_N, at_N]
        keys = reading.cache[TAP + 1][0][row_N, CELL_HEAD]
        scores_NT = self.net.scores(states_ND, positions_N3, keys, TAP + 1, CELL_HEAD)
        later_NT = torch.arange(tokens, device=at_N.device) > at_N[:, None]
        return 0.3 * attention_loss(scores_NT.masked_fill(later_NT, -1e4), share_NT)

    def _look_at_frames(
        self,
        states_ND: torch.Tensor,
        positions_N3: torch.Tensor,
        cache: Cache,
        lesson_N: torch.Tensor,
        column_N: torch.Tensor,
        share_NF: torch.Tensor,
    ) -> torch.Tensor:
        """Before a frame number, make its head look at the ends of the right frames."""
        parts = []
        for column, head in enumerate(self.frame_heads):
            here = column_N == column
            keys = cache[TAP + 1][0][:, head][lesson_N[here]]
            scores_NT = self.net.scores(states_ND[here], positions_N3[here], keys, TAP + 1, head)
            share_NT = torch.zeros_like(scores_NT)
            share_NT[:, self.frame_ends] = self.where_to_look(share_NF[here], column)
            parts.append(attention_loss(scores_NT, share_NT))
        return 0.3 * torch.stack(parts).mean()

    def where_to_look(self, share_NF: torch.Tensor, column: int) -> torch.Tensor:
        """Return the frames to look at, for a distribution over the answers."""
        return share_NF

    def _means(self, states_RTD: torch.Tensor, means_RT: torch.Tensor) -> torch.Tensor:
        """Make the middle of the decoder hold the meant colours before a number is said.

        This is the first of two hops: from the name to here, from here to the image. Alone it
        earns nothing, so it would take long to form.
        """
        wanted = unpack_bits(means_RT[:, 1:])
        at = means_RT[:, 1:] > 0
        states = states_RTD[:, :-1][at]
        return 2 * self.facts.align(states[None], wanted[at][None])

    def _token_losses(
        self, reading: Reading, weight: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted loss of each token but the first, and all log-probs (R, T - 1, V)."""
        logp = self.net.logits(reading.hidden_RTD[:, :-1]).float().log_softmax(-1)
        hard = -logp.gather(-1, reading.ids_RT[:, 1:, None])[..., 0]
        soft_labels = self.soft_VV[value[:, 1:].clamp(min=0)]
        soft = -(soft_labels * logp[..., self.numbers]).sum(-1)
        is_coordinate = value[:, 1:] >= 0
        return torch.where(is_coordinate, soft, hard) * weight[:, 1:], logp

    def dialogue_losses(
        self, images: torch.Tensor, cells: torch.Tensor, cache: Cache, lesson: Tensors
    ) -> Tensors:
        """Return the losses of the dialogues; `cache` is that of the prefix."""
        ids = lesson["ids"].flatten(0, 1)
        reading = self._read(ids, lesson["positions"].flatten(0, 1), images, past=cache)
        weight = lesson["weight"].flatten(0, 1)
        value = lesson["value"].flatten(0, 1)
        means = lesson["means"].flatten(0, 1)
        loss, logp = self._token_losses(reading, weight, value)

        # Chosen frame numbers (R, P) have a distribution as label.
        place = lesson["frame_at"].flatten(0, 1)
        row, column = (place > 0).nonzero(as_tuple=True)
        before = place[row, column] - 1
        share = lesson["frame_share"].flatten(0, 1)[row, column]
        frame = -(share * logp[row, before][:, self.labels]).sum(-1)
        floor = -(share * share.clamp(min=1e-9).log()).sum(-1)
        frame_kl = frame - floor

        count = (place > 0).any(1).sum().clamp(min=1)
        is_thought = weight[:, 1:] == THOUGHT
        parts = {
            "dialogue": loss.sum() / count / 10,
            "frame": FRAME_WEIGHT * frame.sum() / count / 10,
            "means": self._means(reading.tapped_RTD, means),
            "look_frames": self._look_at_frames(
                reading.tapped_RTD[row, before],
                reading.positions_RT3[row, before],
                cache,
                row // lesson["ids"].shape[1],
                column,
                share,
            ),
            "_frame_kl": _mean(frame_kl),
            "_thought": ((loss * is_thought).sum() / count / THOUGHT).detach(),
        }
        for number in column.unique().tolist():
            parts[f"_frame_kl{number}"] = _mean(frame_kl[column == number])
        return parts | self.spatial(lesson, cells, reading, loss)

    def spatial(
        self, lesson: Tensors, cells: torch.Tensor, reading: Reading, loss: torch.Tensor
    ) -> Tensors:
        """Return the losses of places in the keyframe."""
        value = lesson["value"].flatten(0, 1)
        means = lesson["means"].flatten(0, 1)
        row, at = _before_coordinates(value, means)
        is_coordinate = value[:, 1:] >= 0
        count = (value >= 0).sum().clamp(min=1)
        coordinate = (loss * is_coordinate).sum() / count
        look = self.look_at_cells(reading, cells, row, at, means[row, at + 1])
        return {"look_cells": look, "_coordinate": coordinate.detach()}


def _before_coordinates(
    value_RT: torch.Tensor, means_RT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and place of each token before a coordinate with a meaning."""
    has_value = value_RT[:, 1:] >= 0
    has_meaning = means_RT[:, 1:] > 0
    row, at = (has_value & has_meaning).nonzero(as_tuple=True)
    return row, at


def _mean(figure_N: torch.Tensor) -> torch.Tensor:
    """Return the mean to log; 0 without any figure."""
    return figure_N.detach().sum() / max(len(figure_N), 1)


def attention_loss(scores_NT: torch.Tensor, share_NT: torch.Tensor) -> torch.Tensor:
    """Return the KL of attention from the (normalised) share of each key.

    Rows without any share count nothing.
    """
    some_N = share_NT.sum(1) > 0
    share_NT = share_NT[some_N] / share_NT[some_N].sum(1, keepdim=True)
    logp_NT = scores_NT[some_N].float().log_softmax(-1)
    kl = (share_NT * (share_NT.clamp(min=1e-9).log() - logp_NT)).sum()
    return kl / some_N.sum().clamp(min=1)
