"""Supervised losses of mask logits against true masks.

Letters: M masks, h w their pixels, P points of each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Points tried for each one taken, and the share of the taken ones that are the least sure
# (docs/spec/videoseg_o3.md, Training).
OVERSAMPLE = 3
UNSURE = 0.75


def bce(logits_Mhw: Tensor, truth_Mhw: Tensor) -> Tensor:
    """Return the binary cross-entropy of each mask, mean over its pixels, (M,).

    `truth_Mhw` is bool, or holds shares in [0, 1].
    """
    truth_Mhw = truth_Mhw.to(logits_Mhw.dtype)
    loss_Mhw = F.binary_cross_entropy_with_logits(logits_Mhw, truth_Mhw, reduction="none")
    return loss_Mhw.mean(dim=(1, 2))


def dice(logits_Mhw: Tensor, truth_Mhw: Tensor, smooth: float = 1.0) -> Tensor:
    """Return the Dice loss of each mask, (M,) in [0, 1).

        1 - (2 sum p t + smooth) / (sum p + sum t + smooth),   p = sigmoid(logits)

    Unlike the cross-entropy it does not depend on the object's size. An empty truth drawn empty
    costs about 0.
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
    """Return by_bce * BCE + by_dice * Dice of each mask, (M,).

    Reinforcement learning in VideoSEG-O3 adds the mean over a turn's frames and the mean over
    keyframes, each with weight 0.2. Supervised fine-tuning takes 2.0 and 0.5, at 12,544 points.

    Args:
        points: number of points of each mask (`sample_points`) at which the loss is taken; all
            pixels if 0, or if a mask has no more pixels.
        generator: random numbers for the points, on the masks' device; None is torch's own.
    """
    pixels = logits_Mhw.shape[1:].numel()
    if 0 < points < pixels:
        point_MP2 = sample_points(logits_Mhw, points, generator)
        logits_Mhw = at_points(logits_Mhw, point_MP2)[:, None]
        truth_Mhw = at_points(truth_Mhw, point_MP2)[:, None]
    return by_bce * bce(logits_Mhw, truth_Mhw) + by_dice * dice(logits_Mhw, truth_Mhw)


@torch.no_grad()
def sample_points(
    logits_Mhw: Tensor,
    count: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample points of each mask, (M, count, 2): x, y as shares of width and height.

    Of OVERSAMPLE * count random points, those with logits nearest to 0 are taken, up to a share
    UNSURE of all; the rest are random again. So the few pixels of the outline count, and sure but
    wrong masks are found as well.
    """

    def random_points(number: int) -> Tensor:
        shape = (len(logits_Mhw), number, 2)
        return torch.rand(*shape, device=logits_Mhw.device, generator=generator)

    unsure = int(UNSURE * count)
    tried_MN2 = random_points(OVERSAMPLE * count)
    distance_MN = at_points(logits_Mhw, tried_MN2).abs()
    nearest_MK = distance_MN.topk(unsure, dim=1, largest=False).indices
    kept_MK2 = tried_MN2.gather(1, nearest_MK[..., None].expand(-1, -1, 2))
    return torch.cat([kept_MK2, random_points(count - unsure)], dim=1)


def at_points(masks_Mhw: Tensor, point_MP2: Tensor) -> Tensor:
    """Interpolate masks at points, (M, P), bilinear, in at least float32.

    Beyond the centres of the outermost pixels a mask is constant.

    Args:
        point_MP2: x, y as shares of width and height; the centre of the first pixel is at
            (.5 / width, .5 / height).
    """
    dtype = torch.promote_types(masks_Mhw.dtype, torch.float32)
    masks_M1hw = masks_Mhw.to(dtype)[:, None]
    grid_MP12 = (2 * point_MP2 - 1).to(dtype)[:, :, None]
    values_M1P1 = F.grid_sample(masks_M1hw, grid_MP12, padding_mode="border", align_corners=False)
    return values_M1P1[:, 0, :, 0]
