"""The policy that training started from, whose log-probs the KL term needs: it answers without gradients.

With low-rank adapters it is the policy itself with the adapters off; else a frozen copy, which may stay in the CPU's
memory while nobody asks. It never changes, so it is asked once for each batch. Knows no losses and no processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.batch import GroupBatch
from models.policy import lora
from models.policy.policy import Policy


class Reference:
    """`logprobs(rows, patches, temperature)` of a frozen `policy`, or of one with adapters, without them."""

    def __init__(self, policy: Policy, *, offload: bool = False) -> None:
        """`offload`: the copy lies in the CPU's memory between batches; nothing to do for a policy with adapters."""
        self.policy = policy
        self.shared = bool(lora.layers(policy.vlm))
        self.device = policy.banned_V.device
        self.away = torch.device("cpu") if offload and not self.shared else self.device
        if not self.shared:
            policy.requires_grad_(False).to(self.away)

    @torch.no_grad()
    def logprobs(
        self,
        rows: Sequence[GroupBatch],
        patches: Sequence[tuple[Tensor, Tensor]],
        temperature: float,
    ) -> list[Tensor]:
        """Before the policy's own forwards of a batch: memory is free, and no graph hangs on the adapters."""
        forward: Any = lambda: [
            self.policy(row, *shown, temperature)[0]
            for row, shown in zip(rows, patches, strict=True)
        ]
        if self.shared:
            with lora.off(self.policy.vlm):
                return forward()
        self.policy.to(self.device)
        try:
            return forward()
        finally:
            self.policy.to(self.away)
