"""Losses of masks by hand."""

import math

import pytest
import torch

from core.mask_losses import bce, dice, mask_loss

HALF = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)  # p = .5 everywhere
LOGITS = torch.tensor([[[math.log(3), -math.log(3)], [0.0, 0.0]]], dtype=torch.float64)  # p = .75, .25, .5, .5
TRUTH = torch.tensor([[[True, False], [True, False]]])


def test_bce():
    assert bce(HALF, TRUTH).item() == pytest.approx(math.log(2), abs=1e-15)
    assert bce(LOGITS, TRUTH).item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, abs=1e-15)
    assert bce(HALF, torch.full((1, 2, 2), 0.25)).item() == pytest.approx(math.log(2), abs=1e-15)


def test_dice():
    assert dice(HALF, TRUTH).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1), abs=1e-15)
    assert dice(LOGITS, TRUTH).item() == pytest.approx(1 - (2 * 1.25 + 1) / (2 + 2 + 1), abs=1e-15)
    sure = torch.where(TRUTH, 100.0, -100.0)
    assert dice(sure, TRUTH).item() == pytest.approx(0) and dice(-sure, TRUTH).item() == pytest.approx(0.8)
    assert dice(torch.full((1, 2, 2), -100.0), torch.zeros(1, 2, 2)).item() == pytest.approx(0)


def test_weights():
    parts = bce(LOGITS, TRUTH).item(), dice(LOGITS, TRUTH).item()
    assert mask_loss(LOGITS, TRUTH).item() == pytest.approx(sum(parts))
    assert mask_loss(LOGITS, TRUTH, 2.0, 0.5).item() == pytest.approx(2 * parts[0] + 0.5 * parts[1])


def test_every_mask_has_a_loss_of_its_own():
    both = mask_loss(torch.cat([HALF, LOGITS]), torch.cat([TRUTH, TRUTH])).tolist()
    assert both == [mask_loss(HALF, TRUTH).item(), mask_loss(LOGITS, TRUTH).item()]


def test_the_gradient_pulls_to_the_truth():
    logits = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=True)
    truth = torch.rand(3, 5, 5) > 0.5
    mask_loss(logits, truth).sum().backward()
    assert ((-logits.grad > 0) == truth).all()
