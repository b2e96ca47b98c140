"""How the learner's loss fails, and how the statistics of its rows combine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.objective import RatioStats, RowStats, batch_metrics, spread_failure

RATIOS = RatioStats(
    gap_sum=0.5,
    gap_max=0.5,
    kl_sum=0.0,
    clipped_sum=1.0,
    ratio_sum=1.2,
    ratio_max=1.2,
    ratio_min=1.2,
    importance_sum=1.0,
    importance_max=1.0,
    above_cap_sum=0.0,
    gap_by_age={0: (0.5, 1.0)},
)
FIRST = RowStats(loss=1.0, tokens=1.0, row_tokens=10.0, rows=1.0, ratios=RATIOS)
SECOND = replace(
    FIRST,
    loss=2.0,
    tokens=3.0,
    ratios=replace(
        RATIOS,
        gap_sum=0.1,
        gap_max=0.1,
        gap_by_age={0: (0.04, 1.0), 2: (0.06, 2.0)},
        ratio_sum=2.7,
        ratio_max=1.0,
        ratio_min=0.8,
    ),
)
DUMMY = RowStats()


def test_a_loss_that_is_not_finite_has_no_finite_gradient() -> None:
    """A `where` or a bound can take away the gradient of the token that went wrong."""
    logprob = torch.tensor([-1.0, -2.0], requires_grad=True)
    lost = torch.where(torch.tensor([True, False]), torch.inf, logprob).sum()
    (before,) = torch.autograd.grad(lost, logprob, retain_graph=True)
    (after,) = torch.autograd.grad(spread_failure(lost, logprob), logprob)
    assert before.isfinite().all()
    assert after.isnan().all()
    assert spread_failure(logprob.sum(), logprob).item() == -3.0


def test_statistics_of_rows_combine() -> None:
    total = RowStats.total([FIRST, SECOND, DUMMY])
    assert total.loss == 3.0
    assert total.tokens == 4.0
    assert total.rows == 2.0
    assert total.mask_loss is None
    assert total.ratios is not None
    assert total.ratios.ratio_max == 1.2
    assert total.ratios.ratio_min == 0.8

    metrics = batch_metrics(total, total)
    assert metrics["logprob_gap_mean"] == pytest.approx(0.15)
    assert metrics["logprob_gap_max"] == 0.5
    assert metrics["clip_fraction"] == 0.5
    assert metrics["trained_tokens"] == 4.0
    assert "mask_loss" not in metrics
    assert metrics["logprob_gap_of_age/0"] == pytest.approx(0.27)
    assert metrics["logprob_gap_of_age/2"] == pytest.approx(0.03)
    assert metrics["age/mean"] == 1.0
    assert metrics["age/max"] == 2.0


def test_entropies_of_rows_come_together() -> None:
    one = {4: np.array([0.5, 1.0])}
    others = {2: np.array([0.25]), 3: np.array([])}
    parts = [replace(FIRST, entropies=one), replace(SECOND, entropies=others), DUMMY]
    total = RowStats.total(parts).divided(2.0)
    assert {number: found.tolist() for number, found in total.entropies.items()} == {
        2: [0.25],
        3: [],
        4: [0.5, 1.0],
    }


def test_opposite_infinities_combine_to_nan() -> None:
    """`math.fsum` would raise."""
    total = RowStats.total([replace(FIRST, loss=math.inf), replace(FIRST, loss=-math.inf)])
    assert math.isnan(total.loss)


def test_mask_losses_are_reported_where_a_policy_draws() -> None:
    total = RowStats.total([replace(FIRST, mask_loss=0.25), replace(SECOND, mask_loss=0.5)])
    assert batch_metrics(total, total)["mask_loss"] == 0.75


def test_imitation_reports_neutral_ratios() -> None:
    imitated = replace(SECOND, ratios=None)
    metrics = batch_metrics(imitated, imitated)
    assert metrics["ratio_mean"] == metrics["ratio_max"] == metrics["ratio_min"] == 1.0
    assert metrics["importance_mean"] == 1.0
    assert metrics["kl"] == 0.0
    assert metrics["logprob_gap_max"] == 0.0
