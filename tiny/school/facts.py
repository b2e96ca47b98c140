"""Facts taught beside the dialogues in pretraining, and the small heads for them.

The heads read facts off hidden states and are thrown away afterwards: off each image token its
colours, their boxes and shapes; off the end of each frame, in the middle of the decoder, the
history of each colour so far. Nothing here is shared with the rewards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tiny.school.batched import Batched
from tiny.school.lessons import Teacher
from tiny.world.scene import COLOURS, MOTIONS, SHAPES, SIDE, TRENDS

Tensors = dict[str, torch.Tensor]
NUM_COLOURS = len(COLOURS)


class Heads(torch.nn.Module):
    """Readers of facts, used in pretraining only.

    Args:
        search: True for lessons of searches; their dialogues draw masks.
    """

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


class Facts:
    """Losses of the facts of a lesson.

    Attributes:
        labels: The token of each shown frame's number.
    """

    def __init__(self, net: Batched, heads: Heads, teacher: Teacher, device: torch.device) -> None:
        self.net = net
        self.heads = heads
        self.colours = torch.tensor(teacher.colours, device=device)
        self.labels = torch.tensor(teacher.numbers, device=device)[teacher.labels]

    def align(self, states_NTD: torch.Tensor, shows_NTC: torch.Tensor) -> torch.Tensor:
        """Pull the states of a colour towards the embedding of its word.

        As with a projector's alignment, attention from a word to its object is then nearly the
        identity, instead of a circuit that takes hours to form.
        """
        words_CD = F.normalize(self.net.decoder.embed_tokens.weight[self.colours].float(), dim=-1)
        near = F.normalize(states_NTD.float(), dim=-1) @ words_CD.T
        said = self.heads.align_scale * near + self.heads.align_bias
        return F.binary_cross_entropy_with_logits(said, shows_NTC.float())

    def images(
        self,
        images: torch.Tensor,
        box: torch.Tensor,
        visible: torch.Tensor,
        lesson: Tensors,
        frames: int,
        name: str,
    ) -> Tensors:
        """Return the losses of image tokens: which colours, where, and in which shape.

        Args:
            images: (N, tokens, D), N = lessons * frames.
            box: (N, C, 4), as shares of the side.
            visible: (N, C).
            frames: Images of each lesson.
            name: Ending of the parts' names.
        """
        grid = round(images.shape[1] ** 0.5)
        images = images[..., : self.net.width]
        said = self.heads.token(images).float().unflatten(-1, (NUM_COLOURS, -1))
        shows = shown_cells(box, visible, grid)
        count = shows.sum().clamp(min=1)
        presence = F.binary_cross_entropy_with_logits(said[..., 0], shows.float())
        aligned = self.align(images, shows)
        off = (said[..., 1:5] - box[:, None]).abs().mean(-1)
        box_error = (off * shows).sum() / count

        shape = lesson["traits"][..., 0].clamp(min=0)
        shape = shape.repeat_interleave(frames, 0)[:, None].expand(shows.shape)
        said_shape = said[..., 5:].flatten(0, -2)
        wrong = F.cross_entropy(said_shape, shape.flatten(), reduction="none")
        shape_loss = (wrong * shows.flatten()).sum() / count
        return {
            f"align{name}": 3 * aligned,
            f"facts{name}": 3 * presence + 8 * box_error + 0.5 * shape_loss,
            f"_box{name}": (box_error * SIDE).detach(),
        }

    def number(self, states_BFD: torch.Tensor) -> torch.Tensor:
        """Return the loss of saying each frame's number at its end, which answers copy."""
        said = self.net.logits(self.net.decoder.norm(states_BFD)).float()
        return 0.3 * F.cross_entropy(said.flatten(0, 1), self.labels.repeat(len(said)))

    def story(self, states_BFD: torch.Tensor, lesson: Tensors) -> Tensors:
        """Return the losses at each frame's end: colours here, colours so far, motion and trend.

        Motion and trend are asked after 3 frames of the colour.
        """
        said = self.heads.story(self.heads.norm(states_BFD)).float()
        said = said.unflatten(-1, (NUM_COLOURS, -1))
        here = lesson["visible"]
        times = here.long().cumsum(1)
        now = F.binary_cross_entropy_with_logits(said[..., 0], here.float())
        before = F.binary_cross_entropy_with_logits(said[..., 1], (times > 0).float())

        known = (times >= 3).float()
        split = 2 + len(MOTIONS)
        motion = self._trait(said[..., 2:split], lesson["traits"][..., 1], known)
        trend = self._trait(said[..., split:], lesson["traits"][..., 2], known)
        return {"story": now + before + 0.5 * (motion + trend), "_motion": motion.detach()}

    def _trait(
        self, said_BFCN: torch.Tensor, trait_BC: torch.Tensor, known_BFC: torch.Tensor
    ) -> torch.Tensor:
        known = known_BFC.flatten()
        trait = trait_BC[:, None].clamp(min=0).expand(known_BFC.shape).flatten()
        wrong = F.cross_entropy(said_BFCN.flatten(0, -2), trait, reduction="none")
        return (wrong * known).sum() / known.sum().clamp(min=1)


def unpack_bits(means: torch.Tensor) -> torch.Tensor:
    """Return colour bits as 0 or 1 by colour, (..., C)."""
    colours = torch.arange(NUM_COLOURS, device=means.device)
    return means[..., None] >> colours & 1


def shown_cells(box: torch.Tensor, visible: torch.Tensor, grid: int) -> torch.Tensor:
    """Return whether each cell of a grid shows a good part of each box (N, cells, C)."""
    edges = torch.arange(grid, device=box.device) / grid
    low = box[..., :2, None]
    high = box[..., 2:, None]
    stop = torch.minimum(high, edges + 1 / grid)
    start = torch.maximum(low, edges)
    overlap = (stop - start).clamp(min=0)
    across, down = overlap.unbind(-2)
    # (N, C, rows, columns)
    area = down[..., :, None] * across[..., None, :]
    x0, y0, x1, y1 = box.unbind(-1)
    size = (x1 - x0) * (y1 - y0)
    hit = (area > 0.08 / grid**2) | (area > 0.3 * size[..., None, None])
    return (hit & visible[..., None, None]).flatten(2).transpose(1, 2)
