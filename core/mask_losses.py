"""Supervised losses of mask logits against true masks. Pure functions; they know no frame and no token.

Letters: M masks, h w their pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

REINFORCED = 0.2  # weight beside the policy's loss in VideoSEG-O3's reinforcement learning (SPEC A.3, B.5)


def bce(logits_Mhw: Tensor, truth_Mhw: Tensor) -> Tensor:
    """Binary cross-entropy of each mask, mean over its pixels, (M,). `truth_Mhw`: bool, or shares in [0, 1]."""
    wanted_Mhw = truth_Mhw.to(logits_Mhw.dtype)
    return F.binary_cross_entropy_with_logits(logits_Mhw, wanted_Mhw, reduction="none").mean(dim=(1, 2))


def dice(logits_Mhw: Tensor, truth_Mhw: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum p t + smooth) / (sum p + sum t + smooth) of each mask, p = sigmoid(logits), (M,) in [0, 1).

    Does not depend on how small the object is, as the cross-entropy does. An empty truth drawn empty costs about 0.
    """
    p_Mhw, t_Mhw = logits_Mhw.sigmoid(), truth_Mhw.to(logits_Mhw.dtype)
    both_M, sum_M = (p_Mhw * t_Mhw).sum(dim=(1, 2)), (p_Mhw + t_Mhw).sum(dim=(1, 2))
    return 1 - (2 * both_M + smooth) / (sum_M + smooth)


def mask_loss(logits_Mhw: Tensor, truth_Mhw: Tensor, by_bce: float = 1.0, by_dice: float = 1.0) -> Tensor:
    """by_bce * BCE + by_dice * Dice of each mask, (M,); what weighs one mask against another is the caller's.

    Reinforcement learning adds the mean over a turn's frames and that over keyframes with weight `REINFORCED`;
    supervised fine-tuning takes 2.0 and 0.5 (SPEC A.3), there on sampled points instead of all pixels.
    """
    return by_bce * bce(logits_Mhw, truth_Mhw) + by_dice * dice(logits_Mhw, truth_Mhw)
