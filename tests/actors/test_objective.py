"""How the learner's loss fails, and how the reports of its ranks combine."""

import math

import pytest
import torch

from actors.objective import join, means, must_fail


def test_a_loss_that_is_not_finite_has_no_finite_gradient():
    """A `where` or a bound can take the gradient of what went wrong away: then only the loss would tell."""
    logprob = torch.tensor([-1.0, -2.0], requires_grad=True)
    lost = torch.where(torch.tensor([True, False]), torch.inf, logprob).sum()
    (before,) = torch.autograd.grad(lost, logprob, retain_graph=True)
    (after,) = torch.autograd.grad(must_fail(lost, logprob), logprob)
    assert before.isfinite().all()
    assert after.isnan().all()
    assert must_fail(logprob.sum(), logprob).item() == -3.0


def test_reports_of_ranks_combine():
    a = {"tokens_sum": 1.0, "gap_sum": 0.5, "gap_max": 0.5, "loss_sum": 1.0}
    b = {"tokens_sum": 3.0, "gap_sum": 0.1, "gap_max": 0.1, "loss_sum": 2.0}
    dummy = {"tokens_sum": 0.0, "loss_sum": 0.0}
    joined = join([a, b, dummy])
    assert joined["loss_sum"] == 3.0
    assert math.isnan(
        join([{"loss_sum": math.inf}, {"loss_sum": -math.inf}])["loss_sum"]
    )  # fsum would refuse
    found = means(joined, joined)
    assert found["logprob_gap_mean"] == pytest.approx(0.15)
    assert found["logprob_gap_max"] == 0.5
