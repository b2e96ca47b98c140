"""Losses of search lessons: in addition, the state at [SEG] must hold the object and its place."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tiny.school.batched import Cache
from tiny.school.facts import Facts, Tensors, unpack_bits
from tiny.school.losses import Reading, Tutor
from tiny.school.script import SHOWN
from tiny.school.search_lessons import DIALOGUES, KEYS, SHORT
from tiny.world.scene import SIDE

# Arrays of a lesson about the scene; the others have one row a dialogue.
ABOUT_SCENE = {"small", "keys", "key_frame", "box", "visible", "traits", "part"}
# Arrays with one entry a token.
BY_TOKEN = ("ids", "positions", "weight", "value", "means")


class SearchFacts(Facts):
    """Adds the first frame of each colour and the end of its visit."""

    def story(self, states_BFD: torch.Tensor, lesson: Tensors) -> Tensors:
        """Return also the losses at each frame's end of colours that just came or just left.

        In the last frame a colour that is still there counts as leaving.
        """
        here = lesson["visible"]
        before = torch.zeros_like(here)
        before[:, 1:] = here[:, :-1]
        comes = here & (here.long().cumsum(1) == 1)
        goes = before & ~here
        goes[:, -1] |= here[:, -1]

        said = self.heads.edges(self.heads.norm(states_BFD))
        said = said.float().unflatten(-1, (2, -1))
        edges = torch.stack([comes, goes], 2).float()
        # Edges are rare.
        rare = said.new_tensor(5.0)
        loss = F.binary_cross_entropy_with_logits(said, edges, pos_weight=rare)
        return super().story(states_BFD, lesson) | {"edges": 4 * loss}


class SearchTutor(Tutor):
    """Losses of a batch of search lessons.

    One attention head each finds start, end and keyframe in turn 1; turn 2 copies them.
    """

    frame_heads = (2, 3, 0)
    facts_type = SearchFacts

    def where_to_look(self, share_NF: torch.Tensor, column: int) -> torch.Tensor:
        """Return the frames to look at: the end is known one frame later, without the target."""
        if column != 1:
            return share_NF

        later_NF = share_NF.roll(1, 1)
        later_NF[:, -1] += later_NF[:, 0]
        first = torch.tensor([0], device=share_NF.device)
        return later_NF.index_fill(1, first, 0.0)

    def dialogue_losses(
        self, images: torch.Tensor, cells: torch.Tensor, cache: Cache, lesson: Tensors
    ) -> Tensors:
        """Read the dialogues of two turns, then the short ones: their rows need less room."""
        long: Tensors = {}
        short: Tensors = {}
        for name in lesson.keys() - ABOUT_SCENE:
            long[name] = lesson[name][:, :KEYS]
            short[name] = lesson[name][:, KEYS:]
            if name in BY_TOKEN:
                short[name] = short[name][:, :, :SHORT]
        two_turns = super().dialogue_losses(images, cells, cache, long)
        num_short = short["ids"].shape[:2].numel()
        no_images = images.new_zeros(num_short, 0, images.shape[-1])
        one_turn = super().dialogue_losses(no_images, cells[:0], cache, short)

        # Every dialogue counts the same.
        share = KEYS / DIALOGUES
        parts = dict(two_turns)
        for name, part in two_turns.items():
            if name in one_turn:
                parts[name] = share * part + (1 - share) * one_turn[name]
        return parts

    def row_images(self, images: torch.Tensor, keys: torch.Tensor, lesson: Tensors) -> torch.Tensor:
        """Return the frames of the part, then the keyframe."""
        b = len(lesson["part"])
        at = torch.arange(b, device=keys.device)[:, None, None]
        # (B, KEYS, 2, tokens, D)
        part = images.unflatten(0, (b, SHOWN))[at, lesson["part"]]
        return torch.cat([part.flatten(0, 1).flatten(1, 2), keys], 1)

    def spatial(
        self, lesson: Tensors, cells: torch.Tensor, reading: Reading, loss: torch.Tensor
    ) -> Tensors:
        """Return the losses at [SEG]: the last state must show the target's colours and box.

        In the second turn, which shows the keyframe large, one head must also look at its cells.
        """
        seg_at = lesson["seg_at"].flatten(0, 1)
        means = lesson["seg_means"].flatten()
        row, turn = (seg_at > 0).nonzero(as_tuple=True)
        at = seg_at[row, turn]
        states = reading.hidden_RTD[row, at]
        colours = unpack_bits(means[row]).bool()
        said = self.heads.seg(states).float()
        off = (said - lesson["seg_box"].flatten(0, 1)[row]).abs().mean(-1)
        parts = {
            "seg_align": 2 * self.facts.align(states[None], colours[None]),
            "seg_box": 4 * off.mean(),
        }
        if not len(cells):
            return parts | {"_seg_px1": SIDE * off.mean().detach()}

        # The part's frames come before the keyframe; none of their cells is wanted.
        num_tokens = (reading.ids_RT == self.net.image_id).sum(1).max()
        cells = F.pad(cells, (0, 0, int(num_tokens - cells.shape[1]), 0))
        large = turn == 1
        look = self.look_at_cells(reading, cells, row[large], at[large], means[row][large])
        return parts | {
            "look_seg": look,
            "_seg_px1": _pixels_off(off, ~large),
            "_seg_px2": _pixels_off(off, large),
        }


def _pixels_off(off_N: torch.Tensor, chosen_N: torch.Tensor) -> torch.Tensor:
    return SIDE * (off_N * chosen_N).sum().detach() / chosen_N.sum().clamp(min=1)
