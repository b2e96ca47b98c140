"""Losses of the GRPO family, one file each, chosen by `grpo.loss`.

Each gives the per-token terms of the global sum (`core.grpo`).
"""

from __future__ import annotations

from core.losses import cispo, dual_clip, grpo, gspo
from core.losses.surrogate import ClipBounds, Loss, Surrogate

__all__ = ["LOSSES", "ClipBounds", "Loss", "Surrogate"]

LOSSES: dict[str, Loss] = {
    "grpo": grpo.loss,
    "dual_clip": dual_clip.loss,
    "gspo": gspo.loss,
    "cispo": cispo.loss,
}
