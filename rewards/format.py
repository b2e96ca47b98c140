"""The format reward of ReVSeg: the share of rules kept by an answer."""

from __future__ import annotations

from torch import Tensor


def format_reward(rules_GR: Tensor) -> Tensor:
    """Return the share of the R rules kept by each of the G episodes, float (G,) in [0, 1].

    Source: r_f of ReVSeg, section 3.3, a reward in [0, 1] for tags and JSON of both rounds. The
    paper does not say how it is graded; equal shares are chosen by this project (with four rules,
    0.25 each). An episode with an early end keeps no later rule.

    Args:
        rules_GR: bool or 0/1; 1 for a kept rule.
    """
    return rules_GR.float().mean(dim=1)
