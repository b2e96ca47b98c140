"""Supervised losses of mask logits against true masks. Pure functions; they know no frame and no token.

Letters: M masks, h w their pixels, P points of each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REINFORCED = (
    0.2  # weight beside the policy's loss in VideoSEG-O3's reinforcement learning (SPEC A.3, B.5)
)
# points tried for each one taken; share of the taken ones that are the least sure (A.3)
OVERSAMPLE = 3
UNSURE = 0.75


def bce(logits_Mhw: Tensor, truth_Mhw: Tensor) -> Tensor:
    """Binary cross-entropy of each mask, mean over its pixels, (M,). `truth_Mhw`: bool, or shares in [0, 1]."""
    wanted_Mhw = truth_Mhw.to(logits_Mhw.dtype)
    return F.binary_cross_entropy_with_logits(logits_Mhw, wanted_Mhw, reduction="none").mean(
        dim=(1, 2)
    )


def dice(logits_Mhw: Tensor, truth_Mhw: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum p t + smooth) / (sum p + sum t + smooth) of each mask, p = sigmoid(logits), (M,) in [0, 1).

    Does not depend on how small the object is, as the cross-entropy does. An empty truth drawn empty costs about 0.
    """
    p_Mhw = logits_Mhw.sigmoid()
    t_Mhw = truth_Mhw.to(logits_Mhw.dtype)
    both_M = (p_Mhw * t_Mhw).sum(dim=(1, 2))
    sum_M = (p_Mhw + t_Mhw).sum(dim=(1, 2))
    return 1 - (2 * both_M + smooth) / (sum_M + smooth)


def mask_loss(
    logits_Mhw: Tensor,
    truth_Mhw: Tensor,
    by_bce: float = 1.0,
    by_dice: float = 1.0,
    points: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """by_bce * BCE + by_dice * Dice of each mask, (M,); what weighs one mask against another is the caller's.

    Reinforcement learning adds the mean over a turn's frames and that over keyframes with weight `REINFORCED`;
    supervised fine-tuning takes 2.0 and 0.5, at 12,544 points (SPEC A.3).

    Args:
        points: of each mask, drawn by `draw_points`, where the loss is taken; 0, or no fewer than it has pixels: at
            all pixels.
        generator: of the masks' device, for the points; None: torch's own.
    """
    if 0 < points < logits_Mhw.shape[1:].numel():
        point_MP2 = draw_points(logits_Mhw, points, generator)
        logits_Mhw, truth_Mhw = (
            at_points(masks, point_MP2)[:, None] for masks in (logits_Mhw, truth_Mhw)
        )
    return by_bce * bce(logits_Mhw, truth_Mhw) + by_dice * dice(logits_Mhw, truth_Mhw)


@torch.no_grad()
def draw_points(logits_Mhw: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Where a mask's loss says most: (M, P, 2) x, y as shares of width and height, P = `count`.

    Of OVERSAMPLE * count points anywhere the ones whose logit is nearest to 0, up to a share UNSURE of all; the rest
    are anywhere again. So the outline counts, which few pixels are, and a mask that is sure and wrong is found as well.
    """

    def anywhere(number: int) -> Tensor:
        return torch.rand(len(logits_Mhw), number, 2, device=logits_Mhw.device, generator=generator)

    tried_MN2 = anywhere(OVERSAMPLE * count)
    unsure = int(UNSURE * count)
    nearest_MK = at_points(logits_Mhw, tried_MN2).abs().topk(unsure, dim=1, largest=False).indices
    kept_MK2 = tried_MN2.gather(1, nearest_MK[..., None].expand(-1, -1, 2))
    return torch.cat([kept_MK2, anywhere(count - unsure)], dim=1)


def at_points(masks_Mhw: Tensor, point_MP2: Tensor) -> Tensor:
    """Masks between their pixels' middles, (M, P), bilinear, in at least float32; beyond the outermost middles theirs.

    `point_MP2`: x, y as shares of width and height; the middle of the first pixel is at .5 / width, .5 / height.
    """
    wide_Mhw = masks_Mhw.to(torch.promote_types(masks_Mhw.dtype, torch.float32))
    grid_MP12 = (2 * point_MP2 - 1).to(wide_Mhw.dtype)[:, :, None]
    return F.grid_sample(wide_Mhw[:, None], grid_MP12, padding_mode="border", align_corners=False)[
        :, 0, :, 0
    ]
