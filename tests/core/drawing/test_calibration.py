"""Calibration by hand in float64, its ratio form, and the direction in which it moves a mask."""

import math

import pytest
import torch

from core.drawing.calibration import (
    calibrate,
    calibrate_change,
    drawn_bits,
    log_likelihood,
    shrink,
)
from core.losses import LOSSES
from core.losses.surrogate import ClipBounds


def f64(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOGITS = f64([[[2.0, -1.0], [0.3, 0.6]]])  # above .5: the first and the last
# mean of log s(2), log s(1), log s(-.3), log s(.6) for the logistic function s, to 40 digits with
# `decimal`
GOLDEN = -0.43300822337890201


def test_likelihood_by_hand() -> None:
    bits = drawn_bits(LOGITS)
    assert bits.tolist() == [[[True, False], [False, True]]]
    assert drawn_bits(LOGITS, threshold=0.0).tolist() == [[[True, False], [True, True]]]
    assert log_likelihood(LOGITS, bits).item() == pytest.approx(GOLDEN, abs=1e-15)
    assert log_likelihood(LOGITS * 1e6, ~bits).isfinite().all()  # log(1 - sigmoid) would be -inf


def test_calibrated_logprobs_by_hand() -> None:
    text_N = f64([-0.5, -0.25, -1.5])
    token_C = torch.tensor([1, 2, 2])
    loglik_C = f64([-0.4, -0.2, -0.1])
    assert calibrate(text_N, token_C, loglik_C).tolist() == pytest.approx(
        [-0.5, -0.65, -1.8], abs=1e-15
    )
    assert calibrate(text_N, token_C, loglik_C, 0.5).tolist() == pytest.approx(
        [-0.5, -0.45, -1.65], abs=1e-15
    )
    old_C = f64([-0.4, -0.3, -0.1])
    assert calibrate_change(text_N, token_C, loglik_C, old_C).tolist() == pytest.approx(
        [-0.5, -0.25, -1.4], abs=1e-15
    )


def test_the_ratio_off_policy_is_that_of_the_joint_action() -> None:
    torch.manual_seed(0)
    new, old, now, then = (-torch.rand(5, dtype=torch.float64) for _ in range(4))
    everywhere = torch.arange(5)
    for weight in (0.3, 1.0):
        ratio = (calibrate_change(new, everywhere, now, then, weight) - old).exp()
        assert ratio.tolist() == pytest.approx(
            ((new + weight * now) - (old + weight * then)).exp().tolist()
        )
        apart = calibrate(new, everywhere, now, weight) - calibrate(old, everywhere, then, weight)
        assert ratio.tolist() == pytest.approx(apart.exp().tolist())


def test_weight_0_and_no_masks_change_no_bit() -> None:
    text_N = torch.randn(7)
    token_C = torch.tensor([0, 3])
    now_C = torch.randn(2)
    old_C = torch.randn(2)
    assert calibrate(text_N, token_C, now_C, 0.0) is text_N
    assert calibrate_change(text_N, token_C, now_C, old_C, 0.0) is text_N
    assert calibrate(text_N, token_C[:0], now_C[:0]) is text_N


def loss_of(
    logits_Chw: torch.Tensor, advantage: float, loss: str, drift: float = 0.0
) -> torch.Tensor:
    """The policy's loss at one [SEG]; its mask was drawn from the logits plus `drift`."""
    text_N = torch.tensor([-0.5, -0.7], dtype=torch.float64)
    then_Css = shrink(logits_Chw.detach() + drift, 4)
    bits_Css = drawn_bits(then_Css)
    now_C = log_likelihood(shrink(logits_Chw, 4), bits_Css)
    at_N = calibrate_change(text_N, torch.tensor([1]), now_C, log_likelihood(then_Css, bits_Css))
    advantage_N = f64([advantage, advantage])
    one_N = torch.zeros(2, dtype=torch.int64)
    return LOSSES[loss](at_N, text_N, advantage_N, one_N, ClipBounds(0.2, 0.2)).loss_N.sum()


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_a_good_advantage_moves_the_mask_towards_what_was_drawn(loss: str, drift: float) -> None:
    torch.manual_seed(1)
    logits = (3 * torch.randn(1, 8, 8, dtype=torch.float64)).requires_grad_()
    bits = drawn_bits(shrink(logits, 4) + drift)
    before = log_likelihood(shrink(logits, 4), bits).item()
    for advantage, sign in ((1.0, 1), (-1.0, -1), (0.0, 0)):
        (gradient,) = torch.autograd.grad(loss_of(logits, advantage, loss, drift), logits)
        after = log_likelihood(shrink(logits.detach() - 0.1 * gradient, 4), bits).item()
        assert (after > before) - (after < before) == sign
        step = -gradient[0].reshape(4, 2, 4, 2).sum(dim=(1, 3))  # of each cell of the grid
        assert (step.sign() == sign * (2.0 * bits[0] - 1)).all()


def test_the_gradient_is_the_released_one() -> None:
    """There exp(log p + l - sg(log p + l)) is differentiated: A times the gradient of l."""
    logits = torch.randn(1, 8, 8, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(loss_of(logits, 1.7, "grpo"), logits)
    loglik_C = log_likelihood(shrink(logits, 4), drawn_bits(shrink(logits, 4)))
    released = -1.7 * (loglik_C - loglik_C.detach()).exp().sum()
    (theirs,) = torch.autograd.grad(released, logits)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=0)
    assert ours.abs().max() > 0


def test_shrink_is_bilinear_between_pixels() -> None:
    assert shrink(f64([[[0.0, 1.0], [2.0, 5.0]]]), 1).item() == 2.0
    whole = torch.arange(16, dtype=torch.float64).reshape(1, 4, 4)
    assert shrink(whole, 2).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert math.isclose(shrink(whole, 4).sum().item(), 120)
