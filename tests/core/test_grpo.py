"""GRPO mathematics against references written straight from the formulas, in float64."""

import math

import numpy as np
import pytest
import torch

from core import grpo
from core.types import End, Episode, Group, Reward, Turn


def turn(tokens: int, trainable: bool = True) -> Turn:
    return Turn((1,), (2,) * tokens, (-1.0,) * tokens, "", (), True, 0, trainable)


def group(rewards, lengths=None, ends=None) -> Group:
    lengths = lengths or [[3]] * len(rewards)
    ends = ends or [End.DONE] * len(rewards)
    episodes = [
        Episode("s", tuple(turn(n) for n in ns), end) for ns, end in zip(lengths, ends, strict=True)
    ]
    return Group("s", tuple(episodes), tuple(rewards))


def test_advantages_are_standardised_with_the_unbiased_deviation():
    returns = [2.4, 0.25, 1.0, -0.5]
    expected = (np.array(returns) - np.mean(returns)) / (np.std(returns, ddof=1) + 1e-6)
    np.testing.assert_allclose(grpo.normalise(returns, std=True, eps=1e-6), expected, rtol=1e-12)
    biased = (np.array(returns) - np.mean(returns)) / (np.std(returns) + 1e-6)
    np.testing.assert_allclose(
        grpo.normalise(returns, std=True, eps=1e-6, unbiased=False), biased, rtol=1e-12
    )
    centred = np.array(returns) - np.mean(returns)
    found = grpo.normalise(returns, std=False, eps=1e-6)
    np.testing.assert_allclose(found, centred, rtol=1e-12)


def test_failed_episodes_leave_the_baseline_alone():
    with_failure = grpo.normalise([1.0, None, 3.0, 2.0], std=True, eps=1e-6)
    assert with_failure[1] == 0.0
    np.testing.assert_allclose(
        [with_failure[0], *with_failure[2:]], grpo.normalise([1.0, 3.0, 2.0], std=True, eps=1e-6)
    )


@pytest.mark.parametrize("returns", [[0.7] * 4, [0.1 + 0.2, 0.3], [1.0, None], [None, None], []])
def test_equal_returns_carry_no_gradient(returns):
    assert grpo.normalise(returns, std=True, eps=1e-6) == (0.0,) * len(returns)


def test_judge_fills_the_advantages_of_a_group():
    judged = grpo.judge(group([Reward(2.4, {}), Reward(0.25, {})]))
    np.testing.assert_allclose(judged.advantages_G, [2**-0.5, -(2**-0.5)], rtol=1e-5)
    assert judged.informative
    assert not group([None, None]).informative


def test_turn_credit_counts_only_what_comes_after():
    rewards = [
        Reward(3.0, {}, (1.0, 2.0)),
        Reward(0.5, {}, (0.5,)),
        Reward(4.0, {}, (0.0, 4.0)),
        None,
    ]
    found = grpo.turn_advantages(rewards, [2, 1, 2, 0], std=True, eps=1e-6)
    first = grpo.normalise([3.0, 0.5, 4.0], std=True, eps=1e-6)  # the whole return
    second = grpo.normalise([2.0, 4.0], std=True, eps=1e-6)  # only the second turn's own
    assert found == [(first[0], second[0]), (first[1],), (first[2], second[1]), ()]


def test_credit_is_the_same_for_all_turns_unless_asked():
    judged = grpo.judge(
        group([Reward(3.0, {}, (1.0, 2.0)), Reward(0.5, {}, (0.5,))], [[3, 2], [4]])
    )
    a = judged.advantages_G
    assert grpo.credit(judged, per_turn=False, std=True, eps=1e-6) == [(a[0], a[0]), (a[1],)]
    assert grpo.credit(judged, per_turn=True, std=True, eps=1e-6) == [(a[0], 0.0), (a[1],)]
    with pytest.raises(ValueError, match="judge"):
        grpo.credit(group([Reward(1.0, {})]), per_turn=False, std=True, eps=1e-6)


def test_credit_by_turn_does_not_count_helper_turns():
    rewards = (Reward(3.0, {}, (1.0, 2.0)), Reward(0.5, {}, (0.0, 0.5)))
    plain = Group("s", tuple(Episode("s", (turn(3), turn(2)), End.DONE) for _ in rewards), rewards)
    helped = tuple(
        Episode("s", (*[turn(1, trainable=False)] * n, *plain.episodes[0].turns), End.DONE)
        for n in (2, 0)
    )
    (a, b), other = grpo.credit(plain, per_turn=True, std=True, eps=1e-6)
    found = grpo.credit(Group("s", helped, rewards), per_turn=True, std=True, eps=1e-6)
    assert found == [(0.0, 0.0, a, b), other]
    assert a != 0 != b


def test_trained_tokens_leave_out_failures_and_frozen_turns():
    episodes = (
        Episode("s", (turn(3), turn(4)), End.DONE),
        Episode("s", (turn(5, trainable=False), turn(2)), End.DONE),
        Episode("s", (turn(9),), End.FAILED),
    )
    assert grpo.trained_tokens(Group("s", episodes)) == [7, 2, 0]


def test_token_weights_give_the_named_means():
    counts = [3, 0, 5]
    values = np.random.default_rng(0).normal(size=(3, 8))
    losses = [values[i, :n] for i, n in enumerate(counts)]

    def total(aggregation):
        weights = grpo.token_weights(counts, aggregation, max_tokens=10)
        return sum(w * x.sum() for w, x in zip(weights, losses, strict=True))

    assert total("token_mean") == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)
    assert total("sequence_mean") == pytest.approx(
        (losses[0].mean() + losses[2].mean()) / 2, rel=1e-12
    )
    assert total("dr_grpo") == pytest.approx(
        (losses[0].sum() + losses[2].sum()) / 2 / 10, rel=1e-12
    )
    with pytest.raises(ValueError, match="token_mean, sequence_mean, dr_grpo"):
        grpo.token_weights(counts, "mean", max_tokens=10)


def test_kl_estimators_agree_with_the_exact_divergence():
    rng = torch.Generator().manual_seed(1)
    p = torch.randn(7, generator=rng, dtype=torch.float64).log_softmax(0)
    q = torch.randn(7, generator=rng, dtype=torch.float64).log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    for estimator in ("k1", "k3"):  # unbiased under p
        torch.testing.assert_close((p.exp() * grpo.kl(p, q, estimator)).sum(), exact)
    torch.testing.assert_close(grpo.kl(p, q, "k2"), (p - q) ** 2 / 2)
    assert (grpo.kl(p, q, "k3") >= 0).all()
    assert (grpo.kl(p, p, "k3") == 0).all()
    with pytest.raises(ValueError, match="k1, k2, k3"):
        grpo.kl(p, q, "k4")


def test_importance_ratios_of_tokens_and_of_episodes():
    old = torch.tensor([-1.0, -1.0, -1.0, -2.0], dtype=torch.float64, requires_grad=True)
    engine = torch.tensor([-1.5, -3.0, -0.5, -2.25], dtype=torch.float64)
    episode = torch.tensor([7, 7, 3, 3])
    tokens = grpo.importance_ratios(old, engine, episode, "token")
    np.testing.assert_allclose(
        tokens.numpy(), [math.exp(0.5), math.exp(2.0), math.exp(-0.5), math.exp(0.25)]
    )
    episodes = grpo.importance_ratios(old, engine, episode, "sequence")
    np.testing.assert_allclose(episodes.numpy(), [math.exp(2.5)] * 2 + [math.exp(-0.25)] * 2)
    assert not tokens.requires_grad
    assert not episodes.requires_grad
    assert grpo.importance_ratios(old + 1e6, engine, episode, "sequence").isfinite().all()
    with pytest.raises(ValueError, match="token, sequence"):
        grpo.importance_ratios(old, engine, episode, "turn")
