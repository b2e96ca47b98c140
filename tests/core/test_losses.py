"""Each loss and its gradient against the paper's formula, in loops over tokens, in float64."""

import math

import pytest
import torch

from core.losses import LOSSES, ClipBounds

# Tokens of the episodes, and the number of each token's episode: any numbers, in any order.
LENGTHS = (5, 1, 9, 12)
EPISODE = torch.tensor([3] * 5 + [0] * 1 + [8] * 9 + [4] * 12)
BOUNDS = ClipBounds(0.2, 0.28, 1.5)


def sample(
    seed: int = 0, *, per_token: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs, old ones and advantages; these are equal within an episode unless `per_token`."""
    rng = torch.Generator().manual_seed(seed)
    count = len(EPISODE)
    old = -torch.rand(count, generator=rng, dtype=torch.float64)
    change = 0.6 * torch.randn(count, generator=rng, dtype=torch.float64)
    new = (old + change).requires_grad_()
    if per_token:
        return new, old, torch.randn(count, generator=rng, dtype=torch.float64)
    of_episode = torch.randn(4, generator=rng, dtype=torch.float64)
    return new, old, of_episode.repeat_interleave(torch.tensor(LENGTHS))


def clip(x: float, bounds: ClipBounds) -> float:
    return min(max(x, 1 - bounds.low), 1 + bounds.high)


def grpo(r: float, a: float, bounds: ClipBounds) -> tuple[float, float]:
    """(loss, its derivative in the log-prob)."""
    free = r * a
    bound = clip(r, bounds) * a
    return (-bound, 0.0) if bound < free else (-free, -r * a)


def dual_clip(r: float, a: float, bounds: ClipBounds) -> tuple[float, float]:
    value, slope = grpo(r, a, bounds)
    if a < 0 and -value < bounds.dual * a:
        return -bounds.dual * a, 0.0
    return value, slope


@pytest.mark.parametrize(("name", "formula"), [("grpo", grpo), ("dual_clip", dual_clip)])
def test_token_ratios(name, formula):
    seen = set()
    for seed in range(20):
        new, old, advantage = sample(seed, per_token=True)
        found = LOSSES[name](new, old, advantage, EPISODE, BOUNDS)
        (gradient,) = torch.autograd.grad(found.loss_N.sum(), new)
        for i in range(len(EPISODE)):
            r = math.exp(new[i].item() - old[i].item())
            a = advantage[i].item()
            value, slope = formula(r, a, BOUNDS)
            assert found.loss_N[i].item() == pytest.approx(value, rel=1e-12)
            assert gradient[i].item() == pytest.approx(slope, rel=1e-12, abs=1e-15)
            assert found.ratio_N[i].item() == pytest.approx(r, rel=1e-12)
            assert bool(found.clipped_N[i]) == (slope == 0.0)
            seen.add((a > 0, r > 1.28, r < 0.8, a < 0 and r > 1.5, slope == 0.0))
    # Both signs, inside, below, above and beyond the dual bound all occurred.
    assert len(seen) >= 6


def test_dual_clip_is_the_clipped_surrogate_until_its_bound() -> None:
    new, old, advantage = sample(3, per_token=True)
    far = LOSSES["dual_clip"](new, old, advantage, EPISODE, ClipBounds(0.2, 0.28, 1e9))
    assert torch.equal(far.loss_N, LOSSES["grpo"](new, old, advantage, EPISODE, BOUNDS).loss_N)


def gspo_of_paper(new, old, advantage, bounds: ClipBounds, length_weights: bool) -> torch.Tensor:
    """GSPO's objective itself: one ratio and one term for each sequence, weighted by its length if
    all tokens weigh the same.
    """
    total = torch.zeros((), dtype=torch.float64)
    for number in EPISODE.unique().tolist():
        of = number == EPISODE
        s = ((new[of] - old[of]).sum() / of.sum()).exp()
        a = advantage[of][0]
        term = -torch.minimum(s * a, s.clamp(1 - bounds.low, 1 + bounds.high) * a)
        total = total + term * (of.sum() if length_weights else 1)
    return total


@pytest.mark.parametrize("length_weights", [True, False], ids=["token_mean", "sequence_mean"])
def test_gspo_has_the_value_and_the_gradient_of_the_papers_objective(length_weights):
    close = ClipBounds(0.05, 0.08)
    clipped = 0
    counts = torch.tensor(LENGTHS, dtype=torch.float64).repeat_interleave(torch.tensor(LENGTHS))
    weight = torch.ones_like(counts) if length_weights else 1 / counts
    for seed in range(20):
        new, old, advantage = sample(seed)
        found = LOSSES["gspo"](new, old, advantage, EPISODE, close)
        expected = gspo_of_paper(new, old, advantage, close, length_weights)
        total = (weight * found.loss_N).sum()
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-14)
        ours = torch.autograd.grad(total, new)[0]
        theirs = torch.autograd.grad(expected, new)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        clipped += int(found.clipped_N.sum())
    assert 0 < clipped < 20 * len(EPISODE)


def test_gspo_moves_each_token_by_its_own_advantage() -> None:
    new, old, advantage = sample(1, per_token=True)
    found = LOSSES["gspo"](new, old, advantage, EPISODE, ClipBounds(1.0, 1e9))  # nothing is clipped
    (gradient,) = torch.autograd.grad(found.loss_N.sum(), new)
    for i, number in enumerate(EPISODE.tolist()):
        of = number == EPISODE
        s = math.exp((new[of] - old[of]).mean().item())
        assert found.ratio_N[i].item() == pytest.approx(s, rel=1e-12)
        assert gradient[i].item() == pytest.approx(-s * advantage[i].item(), rel=1e-12)


def test_cispo_keeps_the_gradient_of_every_token() -> None:
    new, old, advantage = sample(2, per_token=True)
    found = LOSSES["cispo"](new, old, advantage, EPISODE, BOUNDS)
    (gradient,) = torch.autograd.grad(found.loss_N.sum(), new)
    assert 0 < found.clipped_N.sum() < len(EPISODE)
    for i in range(len(EPISODE)):
        r = math.exp(new[i].item() - old[i].item())
        weight = clip(r, BOUNDS)
        assert found.loss_N[i].item() == pytest.approx(
            -weight * advantage[i].item() * new[i].item(), rel=1e-12
        )
        assert gradient[i].item() == pytest.approx(-weight * advantage[i].item(), rel=1e-12)
        assert bool(found.clipped_N[i]) == (not 0.8 <= r <= 1.28)


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_all_have_the_policy_gradient(name: str) -> None:
    """At ratio 1 the gradient is -A for every token, whatever the loss."""
    _, old, advantage = sample(4, per_token=True)
    new = old.clone().requires_grad_()
    found = LOSSES[name](new, old, advantage, EPISODE, BOUNDS)
    (gradient,) = torch.autograd.grad(found.loss_N.sum(), new)
    torch.testing.assert_close(gradient, -advantage, rtol=1e-12, atol=0)
    assert (found.ratio_N == 1).all()
    assert not found.clipped_N.any()
