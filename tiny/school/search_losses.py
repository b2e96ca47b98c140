"""What searches are taught beside words and frames: that the state at [SEG] holds which object, and where it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tiny.school.lessons import SHOWN
from tiny.school.losses import Read, Tensors, Tutor, bits
from tiny.school.search_lessons import DIALOGUES, KEYS, SHORT
from tiny.world.scene import SIDE

OF_SCENE = {"small", "keys", "key_frame", "box", "visible", "traits", "part"}


class SearchTutor(Tutor):
    """Losses of a batch of search lessons.

    One head each finds start, end and keyframe in turn 1; what turn 2 says of them can be copied.
    """

    frame_heads = (2, 3, 0)

    def where_to_look(self, share_NF: torch.Tensor, column: int) -> torch.Tensor:
        """The end is seen one frame later, when the target is gone: before that nothing tells it."""
        if column != 1:
            return share_NF
        later_NF = share_NF.roll(1, 1)
        later_NF[:, -1] += later_NF[:, 0]
        return later_NF.index_fill(1, torch.tensor([0], device=share_NF.device), 0.0)

    def _story(self, states_BFD: torch.Tensor, lesson: Tensors) -> dict[str, torch.Tensor]:
        """Also: does each colour come for the first time, and is it just gone or (in the last frame) still here?"""
        here = lesson["visible"]
        before = torch.zeros_like(here)
        before[:, 1:] = here[:, :-1]
        comes = here & (here.long().cumsum(1) == 1)
        goes = before & ~here
        goes[:, -1] |= here[:, -1]
        said = self.heads.edges(self.heads.norm(states_BFD)).float().unflatten(-1, (2, -1))
        edges = torch.stack([comes, goes], 2).float()
        loss = F.binary_cross_entropy_with_logits(said, edges, pos_weight=said.new_tensor(5.0))
        return super()._story(states_BFD, lesson) | {"edges": 4 * loss}

    def _dialogues(
        self, images: torch.Tensor, cells: torch.Tensor, cache: list, lesson: Tensors
    ) -> dict[str, torch.Tensor]:
        """Those of two turns, and apart from them the short ones, whose rows need no room for a second turn."""
        of_dialogue = lesson.keys() - OF_SCENE
        long = {name: lesson[name][:, :KEYS] for name in of_dialogue}
        short = {name: lesson[name][:, KEYS:] for name in of_dialogue}
        short |= {
            name: short[name][:, :, :SHORT]
            for name in ("ids", "positions", "weight", "value", "means")
        }
        two = super()._dialogues(images, cells, cache, long)
        none = images.new_zeros(short["ids"].shape[:2].numel(), 0, images.shape[-1])
        one = super()._dialogues(none, cells[:0], cache, short)
        share = KEYS / DIALOGUES
        mixed = {
            name: share * part + (1 - share) * one[name]
            for name, part in two.items()
            if name in one
        }
        return two | mixed

    def row_images(self, images: torch.Tensor, keys: torch.Tensor, lesson: Tensors) -> torch.Tensor:
        """The part's frames, then the keyframe."""
        b = len(lesson["part"])
        at = torch.arange(b, device=keys.device)[:, None, None]
        part = images.unflatten(0, (b, SHOWN))[at, lesson["part"]]  # (B, Q, 2, tokens, D)
        return torch.cat([part.flatten(0, 1).flatten(1, 2), keys], 1)

    def spatial(
        self, lesson: Tensors, cells: torch.Tensor, read: Read, loss: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """At [SEG] the last state must show the target's colours and box, and one head look at its cells."""
        seg_at = lesson["seg_at"].flatten(0, 1)
        means = lesson["seg_means"].flatten()
        row, turn = (seg_at > 0).nonzero(as_tuple=True)
        at = seg_at[row, turn]
        states = read.hidden_RTD[row, at]
        colours = (means[row][:, None] >> bits(means) & 1).bool()
        off = (self.heads.seg(states).float() - lesson["seg_box"].flatten(0, 1)[row]).abs().mean(-1)
        parts = {
            "seg_align": 2 * self.align(states[None], colours[None]),
            "seg_box": 4 * off.mean(),
        }
        large = turn == 1  # turns that see the keyframe large
        if not len(cells):
            return parts | {"_seg_px1": SIDE * off.mean().detach()}
        part = (read.ids_RT == self.net.image_id).sum(1).max() - cells.shape[1]
        cells = F.pad(cells, (0, 0, int(part), 0))
        look = self.look_at_cells(read, cells, row[large], at[large], means[row][large])
        px = [SIDE * (off * of).sum().detach() / of.sum().clamp(min=1) for of in (~large, large)]
        return parts | {"look_seg": look, "_seg_px1": px[0], "_seg_px2": px[1]}
