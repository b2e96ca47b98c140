"""The losses of a row on a pretended GPU: values, statistics and gradients of the CPU."""

from __future__ import annotations

import pytest
import torch

from actors import objective
from actors.objective import RowStats
from configs.schema import GrpoConfig
from core.drawing.losses import mask_loss
from core.losses import LOSSES
from tests.fake_cuda import fake_cuda
from tests.models.policy_rows import rows_and_media


def learned(device: str, cfg: GrpoConfig) -> tuple[RowStats, list[float]]:
    """Statistics of a row, and the gradients at its log-probs."""
    rows, _, _ = rows_and_media((0,))
    row = rows[0]
    count = len(row.weight_N)
    generator = torch.Generator().manual_seed(0)
    logprob_N = -torch.rand(count, generator=generator).to(device)
    logprob_N.requires_grad_(True)
    old_N = -torch.rand(count, generator=generator).to(device)
    loss, stats = objective.grpo_loss(
        logprob_N, -old_N, row, cfg, old_N=old_N, reference_N=old_N / 2, off_policy=True
    )
    logits_Mhw = logprob_N[:12].reshape(3, 2, 2)
    auxiliary = mask_loss(logits_Mhw, logits_Mhw > -0.5, 1.0, 1.0, 0).sum()
    loss, stats = objective.add_mask_loss(loss, stats, auxiliary)
    objective.spread_failure(loss, logprob_N).backward()
    assert logprob_N.grad is not None
    return stats, logprob_N.grad.tolist()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_losses(loss: str, importance: str) -> None:
    cfg = GrpoConfig(kl_coef=0.1, entropy_coef=0.01)
    cfg.loss = loss  # type: ignore[assignment]
    cfg.importance = importance  # type: ignore[assignment]
    expected, gradients = learned("cpu", cfg)
    with fake_cuda() as traffic:
        found, on_gpu = learned("cuda", cfg)
    assert found == expected
    assert on_gpu == gradients
    assert any(gradients)
    assert traffic.operations
