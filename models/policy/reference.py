"""The policy before training, for the log-probs of the KL term; it answers without gradients.

With low-rank adapters it is the policy itself with the adapters off, else a frozen copy. It never
changes, so it is asked once for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.batch import GroupBatch
from models.policy import lora
from models.policy.policy import Policy

# Patches of a row's unique images, and their grid.
Patches = tuple[Tensor, Tensor]


class Reference:
    """Log-probs of a frozen policy."""

    def __init__(
        self,
        policy: Policy,
        *,
        offload: bool = False,
    ) -> None:
        """Take a frozen copy, or the trained policy if it has adapters.

        Args:
            policy: the copy, or the policy with adapters.
            offload: keep the copy in the CPU's memory between batches; without effect on a policy
                with adapters.
        """
        self.policy = policy
        self.shared = bool(lora.layers(policy.vlm))
        self.device = policy.banned_V.device
        self.home = self.device
        if offload and not self.shared:
            self.home = torch.device("cpu")
        if not self.shared:
            policy.requires_grad_(False).to(self.home)

    @torch.no_grad()
    def logprobs(
        self,
        rows: Sequence[GroupBatch],
        patches: Sequence[Patches],
        temperature: float,
    ) -> list[Tensor]:
        """Return logprob_N of each row.

        Call it before the policy's own forwards of a batch: memory is free then, and no graph
        depends on the adapters.
        """
        if self.shared:
            with lora.off(self.policy.vlm):
                return self._forward(rows, patches, temperature)
        self.policy.to(self.device)
        try:
            return self._forward(rows, patches, temperature)
        finally:
            self.policy.to(self.home)

    def _forward(
        self,
        rows: Sequence[GroupBatch],
        patches: Sequence[Patches],
        temperature: float,
    ) -> list[Tensor]:
        found = []
        for row, (pixels, grid_U3) in zip(rows, patches, strict=True):
            found.append(self.policy(row, pixels, grid_U3, temperature).logprob_N)
        return found
