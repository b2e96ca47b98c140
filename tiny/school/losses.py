"""What the tiny foundation is taught by: next tokens, softened coordinates, and facts about every frame.

Beside the dialogues two small heads, thrown away afterwards, must read facts off the hidden states: off each image
token which colours it shows, where and in which shape; off the end of each frame, in the middle of the decoder, what
each colour has done so far. Nothing is shared with the rewards. Knows no file and no process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tiny.school.batched import Batched
from tiny.school.lessons import SHOWN, THOUGHT, Teacher
from tiny.world.scene import COLOURS, MOTIONS, SHAPES, SIDE, TRENDS

Tensors = dict[str, torch.Tensor]
COORDINATE_SIGMA = 0.8  # pixels
FRAME_WEIGHT = 5.0
TAP = 3  # decoder layer whose states the story head reads
CELL_HEAD = 1  # attention head of the next layer that is shown at which cells to look; frames: `frame_heads`
NUM_COLOURS = len(COLOURS)


class Heads(torch.nn.Module):
    """Readers of facts, used in pretraining only. `search`: for lessons of searches, which draw masks."""

    def __init__(self, width: int, search: bool = False) -> None:
        super().__init__()
        if search:
            self.seg = torch.nn.Linear(width, 4)
            self.edges = torch.nn.Linear(width, NUM_COLOURS * 2)
        self.token = torch.nn.Linear(width, NUM_COLOURS * (1 + 4 + len(SHAPES)))
        self.norm = torch.nn.LayerNorm(width)
        self.align_scale = torch.nn.Parameter(torch.tensor(10.0))
        self.align_bias = torch.nn.Parameter(torch.tensor(-3.0))
        self.story = torch.nn.Linear(width, NUM_COLOURS * (2 + len(MOTIONS) + len(TRENDS)))


@dataclass(frozen=True)
class Read:
    """What one pass over R dialogues of T tokens left."""

    ids_RT: torch.Tensor
    positions_RT3: torch.Tensor
    hidden_RTD: torch.Tensor  # of the last layer
    tapped_RTD: torch.Tensor  # of layer TAP
    cache: list


class Tutor:
    """Losses of a batch of lessons."""

    frame_heads: tuple[int, ...] = (
        0,
    )  # the head that looks at frames before each frame number of a dialogue

    def __init__(self, net: Batched, heads: Heads, teacher: Teacher, device: torch.device) -> None:
        self.net = net
        self.heads = heads
        self.colours = torch.tensor(teacher.colours, device=device)
        self.prefix_ids = torch.tensor(teacher.prefix.ids, device=device)
        self.prefix_positions = torch.tensor(teacher.prefix.positions, device=device)
        starts = (self.prefix_ids == net.hf.config.vision_start_token_id).nonzero()[:, 0]
        self.shown = torch.tensor(teacher.shown, device=device)
        small = teacher.family.small // teacher.family.cell
        self.frame_ends = starts[:SHOWN] + small**2 + 1
        self.key_grid = teacher.family.key // teacher.family.cell
        self.numbers = torch.tensor(teacher.numbers, device=device)
        self.labels = self.numbers[teacher.labels]
        values = torch.arange(len(self.numbers), device=device).float()
        soft = torch.exp(-0.5 * ((values[:, None] - values[None]) / COORDINATE_SIGMA) ** 2)
        self.soft_VV = soft / soft.sum(1, keepdim=True)

    def prefix(self, small_BFHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens of the shown frames (B * F, tokens, D), and the embedded prefix (B, T, D)."""
        b = small_BFHWC.shape[0]
        images = self.net.see(small_BFHWC.flatten(0, 1))
        ids = self.prefix_ids.expand(b, -1)
        in_order = images.unflatten(0, (b, SHOWN))[:, self.shown]
        return images, self.net.embed(ids, in_order.flatten(0, 2))

    def losses(self, lesson: Tensors, dialogues: bool) -> dict[str, torch.Tensor]:
        """Weighted parts, to be added up, and figures to log (detached, names begin with "_")."""
        b = lesson["small"].shape[0]
        keys = self.net.see(lesson["keys"].flatten(0, 1))
        images, prefix = self.prefix(lesson["small"])
        at = torch.arange(b, device=keys.device)[:, None]
        parts = self._facts(
            images,
            lesson["box"].flatten(0, 1),
            lesson["visible"].flatten(0, 1),
            lesson,
            SHOWN,
            "_small",
        )
        key_box, key_visible = (
            lesson[name][at, lesson["key_frame"]].flatten(0, 1) for name in ("box", "visible")
        )
        parts |= self._facts(keys, key_box, key_visible, lesson, keys.shape[0] // b, "_key")
        cells = _shows(key_box, key_visible, self.key_grid)  # of each dialogue's keyframe
        parts |= self._grounding(keys, cells, lesson)
        if dialogues:
            positions = self.prefix_positions.expand(b, -1, -1)
            _, cache, tapped = self.net.read(prefix, positions, tap=TAP)
            assert tapped is not None
            parts |= self._story(tapped[:, self.frame_ends], lesson)
            parts["number"] = self._number(tapped[:, self.frame_ends])
            parts["align_ends"] = 2 * self.align(tapped[:, self.frame_ends], lesson["visible"])
            parts |= self._dialogues(self.row_images(images, keys, lesson), cells, cache, lesson)
        return parts

    def row_images(self, images: torch.Tensor, keys: torch.Tensor, lesson: Tensors) -> torch.Tensor:
        """Image tokens of each dialogue after the prefix (R, tokens, D)."""
        return keys

    def _grounding(
        self, keys: torch.Tensor, cells: torch.Tensor, lesson: Tensors
    ) -> dict[str, torch.Tensor]:
        read = self._read(
            lesson["ground_ids"].flatten(0, 1), lesson["ground_positions"].flatten(0, 1), keys
        )
        weight = lesson["ground_weight"].flatten(0, 1)
        value = lesson["ground_value"].flatten(0, 1)
        loss, _ = self._tokens(read, weight, value)
        ground = loss.sum() / (weight > 0).any(1).sum().clamp(min=1) / 10
        means = lesson["ground_means"].flatten(0, 1)
        row, at = ((value[:, 1:] >= 0) & (means[:, 1:] > 0)).nonzero(as_tuple=True)
        look = self.look_at_cells(read, cells, row, at, means[row, at + 1])
        return {
            "ground": ground,
            "means_ground": self._means(read.tapped_RTD, means),
            "look_ground": look,
        }

    def _read(
        self,
        ids_RT: torch.Tensor,
        positions_RT3: torch.Tensor,
        images: torch.Tensor,
        past: list | None = None,
    ) -> Read:
        """Dialogues with their images, after a prefix that was read before."""
        embedded = self._embed_keys(ids_RT, images)
        hidden_RTD, cache, tapped_RTD = self.net.read(embedded, positions_RT3, past=past, tap=TAP)
        assert tapped_RTD is not None
        return Read(ids_RT, positions_RT3, hidden_RTD, tapped_RTD, cache)

    def look_at_cells(
        self,
        read: Read,
        cells_RSC: torch.Tensor,
        row_N: torch.Tensor,
        at_N: torch.Tensor,
        means_N: torch.Tensor,
    ) -> torch.Tensor:
        """At N places (before a coordinate, say) one head must look at the image cells that show what is meant there.
        `cells`: the colours that each of a row's S image tokens shows."""
        wanted_NC = (means_N[:, None] >> bits(means_N) & 1).bool()
        share_NS = (wanted_NC[:, None] & cells_RSC[row_N]).any(-1).float()
        tokens = read.ids_RT.shape[1]
        share_NT = torch.zeros(len(row_N), tokens, device=row_N.device)
        share_NT[(read.ids_RT == self.net.image_id)[row_N]] = share_NS.flatten()
        states_ND = read.tapped_RTD[row_N, at_N]
        keys = read.cache[TAP + 1][0][row_N, CELL_HEAD]
        scores_NT = self.net.scores(
            states_ND, read.positions_RT3[row_N, at_N], keys, TAP + 1, CELL_HEAD
        )
        later_NT = torch.arange(tokens, device=at_N.device) > at_N[:, None]
        return 0.3 * attends(scores_NT.masked_fill(later_NT, -1e4), share_NT)

    def _look_at_frames(
        self,
        states_ND: torch.Tensor,
        positions_N3: torch.Tensor,
        cache: list,
        lesson_N: torch.Tensor,
        column_N: torch.Tensor,
        share_NF: torch.Tensor,
    ) -> torch.Tensor:
        """Before the frame numbers that have a head for it, that head must look at the ends of the right frames."""
        parts = []
        for column, head in enumerate(self.frame_heads):
            of = column_N == column
            ends = cache[TAP + 1][0][:, head][lesson_N[of]]
            scores_NT = self.net.scores(states_ND[of], positions_N3[of], ends, TAP + 1, head)
            share_NT = torch.zeros_like(scores_NT)
            share_NT[:, self.frame_ends] = self.where_to_look(share_NF[of], column)
            parts.append(attends(scores_NT, share_NT))
        return 0.3 * torch.stack(parts).mean()

    def where_to_look(self, share_NF: torch.Tensor, column: int) -> torch.Tensor:
        return share_NF

    def _means(self, states_RTD: torch.Tensor, means_RT: torch.Tensor) -> torch.Tensor:
        """Before a frame number or a coordinate is said, the middle of the decoder must hold whose it is: the first
        of two hops (name to here, here to what shows it), which alone earns nothing and so takes long to be found."""
        wanted = means_RT[:, 1:, None] >> bits(means_RT) & 1
        at = means_RT[:, 1:] > 0
        return 2 * self.align(states_RTD[:, :-1][at][None], wanted[at][None])

    def _embed_keys(self, ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        # A dialogue left empty has no image tokens; its image must not slide into the next row.
        used = (ids == self.net.image_id).any(1)
        return self.net.embed(ids, keys[used].flatten(0, 1))

    def _tokens(
        self, read: Read, weight: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted loss of each token but the first (R, T - 1), and all log-probs (R, T - 1, V)."""
        logp = self.net.logits(read.hidden_RTD[:, :-1]).float().log_softmax(-1)
        hard = -logp.gather(-1, read.ids_RT[:, 1:, None])[..., 0]
        coordinate = value[:, 1:] >= 0
        soft_labels = self.soft_VV[value[:, 1:].clamp(min=0)]
        soft = -(soft_labels * logp[..., self.numbers]).sum(-1)
        return torch.where(coordinate, soft, hard) * weight[:, 1:], logp

    def _dialogues(
        self, images: torch.Tensor, cells: torch.Tensor, cache: list, lesson: Tensors
    ) -> dict[str, torch.Tensor]:
        read = self._read(
            lesson["ids"].flatten(0, 1), lesson["positions"].flatten(0, 1), images, past=cache
        )
        weight = lesson["weight"].flatten(0, 1)
        value = lesson["value"].flatten(0, 1)
        loss, logp = self._tokens(read, weight, value)
        place = lesson["frame_at"].flatten(0, 1)  # (R, P)
        row, column = (place > 0).nonzero(as_tuple=True)
        before = place[row, column] - 1
        share = lesson["frame_share"].flatten(0, 1)[row, column]
        frame = -(share * logp[row, before][:, self.labels]).sum(-1)
        floor = -(share * share.clamp(min=1e-9).log()).sum(-1)
        count = (place > 0).any(1).sum().clamp(min=1)
        thought = weight[:, 1:] == THOUGHT
        means = lesson["means"].flatten(0, 1)
        parts = {
            "dialogue": loss.sum() / count / 10,
            "frame": FRAME_WEIGHT * frame.sum() / count / 10,
            "means": self._means(read.tapped_RTD, means),
            "look_frames": self._look_at_frames(
                read.tapped_RTD[row, before],
                read.positions_RT3[row, before],
                cache,
                row // lesson["ids"].shape[1],
                column,
                share,
            ),
            "_frame_kl": _mean(frame - floor),
            **{
                f"_frame_kl{c}": _mean((frame - floor)[column == c])
                for c in column.unique().tolist()
            },
            "_thought": ((loss * thought).sum() / count / THOUGHT).detach(),
        }
        return parts | self.spatial(lesson, cells, read, loss)

    def spatial(
        self, lesson: Tensors, cells: torch.Tensor, read: Read, loss: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What dialogues are taught about where things are in the keyframe."""
        value = lesson["value"].flatten(0, 1)
        means = lesson["means"].flatten(0, 1)
        row, at = ((value[:, 1:] >= 0) & (means[:, 1:] > 0)).nonzero(as_tuple=True)
        off = (loss * (value[:, 1:] >= 0)).sum() / (value >= 0).sum().clamp(min=1)
        look = self.look_at_cells(read, cells, row, at, means[row, at + 1])
        return {"look_cells": look, "_coordinate": off.detach()}

    def _facts(
        self,
        images: torch.Tensor,
        box: torch.Tensor,
        visible: torch.Tensor,
        lesson: Tensors,
        frames: int,
        name: str,
    ) -> dict[str, torch.Tensor]:
        """images (N, tokens, D), box (N, C, 4), visible (N, C); N = lessons * frames."""
        grid = round(images.shape[1] ** 0.5)
        images = images[..., : self.net.width]
        said = self.heads.token(images).float().unflatten(-1, (NUM_COLOURS, -1))
        shows = _shows(box, visible, grid)
        presence = F.binary_cross_entropy_with_logits(said[..., 0], shows.float())
        aligned = self.align(images, shows)
        count = shows.sum().clamp(min=1)
        off = ((said[..., 1:5] - box[:, None]).abs().mean(-1) * shows).sum() / count
        shape = (
            lesson["traits"][..., 0]
            .clamp(min=0)
            .repeat_interleave(frames, 0)[:, None]
            .expand(shows.shape)
        )
        wrong = F.cross_entropy(said[..., 5:].flatten(0, -2), shape.flatten(), reduction="none")
        shape_loss = (wrong * shows.flatten()).sum() / count
        return {
            f"align{name}": 3 * aligned,
            f"facts{name}": 3 * presence + 8 * off + 0.5 * shape_loss,
            f"_box{name}": (off * SIDE).detach(),
        }

    def align(self, states_NTD: torch.Tensor, shows_NTC: torch.Tensor) -> torch.Tensor:
        """States that show a colour point the way of its word's embedding, as a projector's alignment does: attention
        from a word to what it means is then nearly the identity, instead of a circuit that takes hours to form."""
        words_CD = F.normalize(self.net.decoder.embed_tokens.weight[self.colours].float(), dim=-1)
        near = F.normalize(states_NTD.float(), dim=-1) @ words_CD.T
        said = self.heads.align_scale * near + self.heads.align_bias
        return F.binary_cross_entropy_with_logits(said, shows_NTC.float())

    def _number(self, states_BFD: torch.Tensor) -> torch.Tensor:
        """At the end of each frame its own number, read by the model's own head: what an answer will have to copy."""
        said = self.net.logits(self.net.decoder.norm(states_BFD)).float()
        return 0.3 * F.cross_entropy(said.flatten(0, 1), self.labels.repeat(len(said)))

    def _story(self, states_BFD: torch.Tensor, lesson: Tensors) -> dict[str, torch.Tensor]:
        """At the end of each frame: is it here, was it here, and (after 3 frames of it) how does it move and grow?"""
        said = (
            self.heads.story(self.heads.norm(states_BFD)).float().unflatten(-1, (NUM_COLOURS, -1))
        )
        here = lesson["visible"]
        times = here.long().cumsum(1)
        now = F.binary_cross_entropy_with_logits(said[..., 0], here.float())
        before = F.binary_cross_entropy_with_logits(said[..., 1], (times > 0).float())
        known = (times >= 3).float().flatten()
        count = known.sum().clamp(min=1)
        parts = []
        for column, (start, stop) in (
            (1, (2, 2 + len(MOTIONS))),
            (2, (2 + len(MOTIONS), said.shape[-1])),
        ):
            trait = lesson["traits"][:, None, :, column].clamp(min=0).expand(here.shape).flatten()
            wrong = F.cross_entropy(said[..., start:stop].flatten(0, -2), trait, reduction="none")
            parts.append((wrong * known).sum() / count)
        return {"story": now + before + 0.5 * (parts[0] + parts[1]), "_motion": parts[0].detach()}


def _mean(figure_N: torch.Tensor) -> torch.Tensor:
    """To log; 0 of nothing."""
    return figure_N.detach().sum() / max(len(figure_N), 1)


def bits(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(NUM_COLOURS, device=like.device)


def attends(scores_NT: torch.Tensor, share_NT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of attention with the (normalised) share of each key, less its floor; rows without any are left."""
    some_N = share_NT.sum(1) > 0
    share_NT = share_NT[some_N] / share_NT[some_N].sum(1, keepdim=True)
    logp_NT = scores_NT[some_N].float().log_softmax(-1)
    return (share_NT * (share_NT.clamp(min=1e-9).log() - logp_NT)).sum() / some_N.sum().clamp(min=1)


def _shows(box: torch.Tensor, visible: torch.Tensor, grid: int) -> torch.Tensor:
    """Whether a cell of the grid shows a good part of a box (N, cells, C)."""
    edges = torch.arange(grid, device=box.device) / grid
    low = box[..., :2, None]
    high = box[..., 2:, None]
    across, down = (
        (torch.minimum(high, edges + 1 / grid) - torch.maximum(low, edges)).clamp(min=0).unbind(-2)
    )
    overlap = down[..., :, None] * across[..., None, :]  # (N, C, rows, columns)
    size = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]))[..., None, None]
    hit = (overlap > 0.08 / grid**2) | (overlap > 0.3 * size)
    return (hit & visible[..., None, None]).flatten(2).transpose(1, 2)
