"""Losses of masks by hand."""

import math

import pytest
import torch

from core.drawing.losses import at_points, bce, dice, mask_loss, sample_points

# Logits of the probabilities .5 everywhere, and .75, .25, .5, .5.
HALF = torch.zeros(1, 2, 2, dtype=torch.float64)
LOGITS = torch.tensor([[[math.log(3), -math.log(3)], [0.0, 0.0]]], dtype=torch.float64)
TRUTH = torch.tensor([[[True, False], [True, False]]])


def test_bce() -> None:
    assert bce(HALF, TRUTH).item() == pytest.approx(math.log(2), abs=1e-15)
    expected = -(math.log(0.75) + math.log(0.5)) / 2
    assert bce(LOGITS, TRUTH).item() == pytest.approx(expected, abs=1e-15)
    quarter = torch.full((1, 2, 2), 0.25)
    assert bce(HALF, quarter).item() == pytest.approx(math.log(2), abs=1e-15)


def test_dice() -> None:
    even = 1 - (2 * 1 + 1) / (2 + 2 + 1)
    assert dice(HALF, TRUTH).item() == pytest.approx(even, abs=1e-15)
    better = 1 - (2 * 1.25 + 1) / (2 + 2 + 1)
    assert dice(LOGITS, TRUTH).item() == pytest.approx(better, abs=1e-15)
    sure = torch.where(TRUTH, 100.0, -100.0)
    assert dice(sure, TRUTH).item() == pytest.approx(0)
    assert dice(-sure, TRUTH).item() == pytest.approx(0.8)


def test_dice_of_an_empty_truth_drawn_empty() -> None:
    nothing = torch.zeros(1, 2, 2)
    assert dice(nothing - 100, nothing).item() == pytest.approx(0)


def test_weights() -> None:
    by_bce = bce(LOGITS, TRUTH).item()
    by_dice = dice(LOGITS, TRUTH).item()
    assert mask_loss(LOGITS, TRUTH).item() == pytest.approx(by_bce + by_dice)
    weighted = mask_loss(LOGITS, TRUTH, 2.0, 0.5).item()
    assert weighted == pytest.approx(2 * by_bce + 0.5 * by_dice)


def test_every_mask_has_a_loss_of_its_own() -> None:
    both = mask_loss(torch.cat([HALF, LOGITS]), torch.cat([TRUTH, TRUTH])).tolist()
    assert both == [mask_loss(HALF, TRUTH).item(), mask_loss(LOGITS, TRUTH).item()]


def test_the_gradient_pulls_to_the_truth() -> None:
    logits = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=True)
    truth = torch.rand(3, 5, 5) > 0.5
    mask_loss(logits, truth).sum().backward()
    assert ((-logits.grad > 0) == truth).all()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def half(h: int = 24, w: int = 32) -> torch.Tensor:
    """Logits that fall from 4 on the left to -4 on the right: 0 in the middle."""
    return torch.linspace(4, -4, w, dtype=torch.float64).expand(1, h, w)


def test_at_the_pixels_middles_masks_are_their_pixels_and_the_loss_is_the_dense_one() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    truth = torch.rand(2, 3, 5) > 0.5
    x_W = (torch.arange(5) + 0.5) / 5
    y_H = (torch.arange(3) + 0.5) / 3
    grid_HW2 = torch.stack(torch.meshgrid(x_W, y_H, indexing="xy"), -1)
    middles = grid_HW2.reshape(1, 15, 2).expand(2, -1, -1)
    taken = at_points(logits, middles)
    assert torch.allclose(taken, logits.flatten(1), atol=1e-6)
    assert torch.allclose(at_points(truth, middles), truth.flatten(1).float(), atol=1e-6)
    dense = mask_loss(logits, truth, 2.0, 0.5)
    there = mask_loss(taken[:, None], truth.flatten(1)[:, None], 2.0, 0.5)
    assert torch.allclose(dense, there, atol=1e-6)


def test_between_pixels_masks_are_linear_and_beyond_the_rim_constant() -> None:
    ramp = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[[0.5, 0.5], [0.5, 0.25], [0.25, 0.625], [0.0, 0.0], [1.0, 1.0]]])
    assert at_points(ramp, points)[0].tolist() == pytest.approx([1.5, 0.5, 1.5, 0.0, 3.0])


def test_all_pixels_are_taken_where_there_are_no_more_than_points() -> None:
    logits = torch.randn(2, 4, 4)
    truth = torch.rand(2, 4, 4) > 0.5
    for points in (0, 16, 12544):
        assert torch.equal(mask_loss(logits, truth, points=points), mask_loss(logits, truth))
    assert not torch.equal(mask_loss(logits, truth, points=15), mask_loss(logits, truth))


def test_three_quarters_of_the_points_are_where_the_mask_is_least_sure() -> None:
    points = sample_points(half(), 100, seeded())
    assert points.shape == (1, 100, 2)
    assert points.min() >= 0
    assert points.max() < 1
    away = at_points(half(), points).abs()[0]
    all_tried = torch.rand(1, 300, 2, generator=seeded())
    nearest = at_points(half(), all_tried).abs()[0].sort().values[:75]
    assert away[:75].tolist() == pytest.approx(nearest.tolist(), abs=1e-6)
    assert away[:75].max() < 1.5 < away[75:].max()


def test_points_repeat_under_a_generator_and_are_each_masks_own() -> None:
    # Equally sure everywhere: any point will do.
    many = torch.zeros(3, 8, 8)
    assert torch.equal(sample_points(many, 20, seeded()), sample_points(many, 20, seeded()))
    points = sample_points(many, 20, seeded())
    assert not torch.equal(points, sample_points(many, 20, seeded(1)))
    assert not torch.equal(points[0], points[1])
    logits = half().repeat(2, 1, 1)
    truth = torch.rand(2, 24, 32, generator=seeded()) > 0.5
    first = mask_loss(logits, truth, points=50, generator=seeded(3))
    again = mask_loss(logits, truth, points=50, generator=seeded(3))
    other = mask_loss(logits, truth, points=50, generator=seeded(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_loss_at_points_is_near_the_dense_one_where_no_pixel_is_special() -> None:
    """With equally sure pixels the points are anywhere: their mean is near that of all pixels."""
    truth = torch.rand(1, 64, 64, generator=seeded(5)) > 0.5
    logits = torch.full((1, 64, 64), -1.0)
    sampled = mask_loss(logits, truth, points=4000, generator=seeded(6)).item()
    assert sampled == pytest.approx(mask_loss(logits, truth).item(), abs=0.03)


def test_the_gradient_at_points_pulls_to_the_truth() -> None:
    logits = half().clone().requires_grad_()
    truth = torch.zeros(1, 24, 32, dtype=torch.bool)
    # Four columns more than are drawn.
    truth[:, :, :20] = True
    mask_loss(logits, truth, 2.0, 0.5, points=400, generator=seeded()).sum().backward()
    columns_with_gradient = (logits.grad != 0).any(1)[0].sum()
    assert columns_with_gradient > 24
    wrong = logits.grad[0, :, 17:19]
    far = logits.grad[0, :, :4]
    assert (wrong <= 0).all()
    assert wrong.abs().mean() > 5 * far.abs().mean()


def test_half_precision_masks_have_their_loss_in_full() -> None:
    logits = half().to(torch.bfloat16)
    truth = half() > 0
    assert mask_loss(logits, truth, points=50, generator=seeded()).dtype == torch.float32
