"""The format reward: the share of rules that an answer keeps. Knows no rule, only their outcomes."""

from __future__ import annotations

from torch import Tensor


def format_reward(rules_GR: Tensor) -> Tensor:
    """Share of the R rules that each of the G episodes keeps, in [0, 1].

    rules_GR: bool or 0/1. Returns float of shape (G,) on the same device.

    Source: r_f of ReVSeg, section 3.3: a reward in [0, 1] for tags and JSON of both rounds. How it is graded is not
    published; equal shares are ours (with four rules, .25 each). An episode that stopped early keeps no later rule.
    """
    return rules_GR.float().mean(dim=1)
