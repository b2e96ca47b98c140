"""GRPO mathematics against references written straight from the formulas, in float64."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from core import grpo
from core.types import End, Episode, Group, Reward, Rle, Turn


def turn(tokens: int, trainable: bool = True) -> Turn:
    return Turn(
        prompt_ids=(1,),
        completion_ids=(2,) * tokens,
        logprobs=(-1.0,) * tokens,
        text="",
        media=(),
        complete=True,
        version=0,
        trainable=trainable,
    )


def episode(*lengths: int) -> Episode:
    """A finished episode with turns of these numbers of tokens."""
    return Episode("s", tuple(turn(length) for length in lengths), End.DONE)


def group(rewards: Sequence[Reward | None], episodes: Sequence[Episode] = ()) -> Group:
    return Group("s", tuple(episodes) or (episode(3),) * len(rewards), tuple(rewards))


def normalised(returns: Sequence[float | None]) -> tuple[float, ...]:
    return grpo.normalise(returns, std=True, eps=1e-6)


def test_advantages_are_standardised_with_the_unbiased_deviation() -> None:
    returns = np.array([2.4, 0.25, 1.0, -0.5])
    centred = returns - returns.mean()
    found = grpo.normalise(returns.tolist(), std=True, eps=1e-6)
    np.testing.assert_allclose(found, centred / (returns.std(ddof=1) + 1e-6), rtol=1e-12)
    found = grpo.normalise(returns.tolist(), std=True, eps=1e-6, unbiased=False)
    np.testing.assert_allclose(found, centred / (returns.std() + 1e-6), rtol=1e-12)
    found = grpo.normalise(returns.tolist(), std=False, eps=1e-6)
    np.testing.assert_allclose(found, centred, rtol=1e-12)


def test_failed_episodes_leave_the_baseline_alone() -> None:
    first, failed, second, third = normalised([1.0, None, 3.0, 2.0])
    assert failed == 0.0
    np.testing.assert_allclose([first, second, third], normalised([1.0, 3.0, 2.0]))


@pytest.mark.parametrize(
    "returns",
    [
        [0.7] * 4,
        [0.1 + 0.2, 0.3],
        [1.0, None],
        [None, None],
        [],
    ],
)
def test_equal_returns_carry_no_gradient(returns: list[float | None]) -> None:
    assert normalised(returns) == (0.0,) * len(returns)


def test_judge_fills_the_advantages_of_a_group() -> None:
    judged = grpo.judge(group([Reward(2.4, {}), Reward(0.25, {})]))
    np.testing.assert_allclose(judged.advantages_G, [2**-0.5, -(2**-0.5)], rtol=1e-5)
    assert judged.informative
    assert not group([None, None]).informative


def test_turn_credit_counts_only_what_comes_after() -> None:
    rewards = [
        Reward(3.0, {}, (1.0, 2.0)),
        Reward(0.5, {}, (0.5,)),
        Reward(4.0, {}, (0.0, 4.0)),
        None,
    ]
    found = grpo.turn_advantages(rewards, [2, 1, 2, 0], std=True, eps=1e-6)
    # Turn 0 earns the whole return, turn 1 only its own.
    turn_0 = normalised([3.0, 0.5, 4.0])
    turn_1 = normalised([2.0, 4.0])
    assert found[0] == (turn_0[0], turn_1[0])
    assert found[1] == (turn_0[1],)
    assert found[2] == (turn_0[2], turn_1[1])
    assert found[3] == ()


def test_credit_is_the_same_for_all_turns_unless_asked() -> None:
    rewards = [Reward(3.0, {}, (1.0, 2.0)), Reward(0.5, {}, (0.5,))]
    judged = grpo.judge(group(rewards, [episode(3, 2), episode(4)]))
    a, b = judged.advantages_G
    same = grpo.credit(judged, per_turn=False, std=True, eps=1e-6)
    assert same == [(a, a), (b,)]
    by_turn = grpo.credit(judged, per_turn=True, std=True, eps=1e-6)
    assert by_turn == [(a, 0.0), (b,)]


def test_credit_without_advantages_is_an_error() -> None:
    with pytest.raises(ValueError, match="judge"):
        grpo.credit(group([Reward(1.0, {})]), per_turn=False, std=True, eps=1e-6)


def test_credit_by_turn_does_not_count_helper_turns() -> None:
    rewards = [Reward(3.0, {}, (1.0, 2.0)), Reward(0.5, {}, (0.0, 0.5))]
    plain = group(rewards, [episode(3, 2), episode(3, 2)])
    helper = turn(1, trainable=False)
    own_turns = plain.episodes[0].turns
    helped = Episode("s", (helper, helper, *own_turns), End.DONE)

    (a, b), other = grpo.credit(plain, per_turn=True, std=True, eps=1e-6)
    with_helper = group(rewards, [helped, plain.episodes[1]])
    found = grpo.credit(with_helper, per_turn=True, std=True, eps=1e-6)
    assert found == [(0.0, 0.0, a, b), other]
    assert a != 0
    assert b != 0


def test_trained_tokens_leave_out_failures_and_frozen_turns() -> None:
    episodes = (
        episode(3, 4),
        Episode("s", (turn(5, trainable=False), turn(2)), End.DONE),
        Episode("s", (turn(9),), End.FAILED),
    )
    assert grpo.trained_tokens(Group("s", episodes)) == [7, 2, 0]


def test_token_weights_give_the_named_means() -> None:
    counts = [3, 0, 5]
    values = np.random.default_rng(0).normal(size=(3, 8))
    losses = [values[i, :n] for i, n in enumerate(counts)]
    first, _, last = losses

    def total(aggregation: str) -> float:
        weights = grpo.token_weights(counts, aggregation, max_tokens=10)
        return sum(w * x.sum() for w, x in zip(weights, losses, strict=True))

    mean_of_tokens = np.concatenate(losses).mean()
    assert total("token_mean") == pytest.approx(mean_of_tokens, rel=1e-12)
    mean_of_means = (first.mean() + last.mean()) / 2
    assert total("sequence_mean") == pytest.approx(mean_of_means, rel=1e-12)
    by_budget = (first.sum() + last.sum()) / 2 / 10
    assert total("dr_grpo") == pytest.approx(by_budget, rel=1e-12)
    with pytest.raises(ValueError, match="token_mean, sequence_mean, dr_grpo"):
        grpo.token_weights(counts, "mean", max_tokens=10)


def test_long_episodes_lose_reward_softly() -> None:
    lengths = (10, 16, 18, 20, 99)
    penalties = [grpo.overlong_penalty(tokens, most=20, cache=4) for tokens in lengths]
    assert penalties == [0.0, 0.0, -0.5, -1.0, -1.0]

    seen = ((0, Rle(size=[2, 2], counts="4")),)
    whole = Reward(2.0, {"iou": 2.0}, masks=seen)
    by_turn = Reward(2.0, {"iou": 2.0}, (0.5, 1.5))
    shaped = grpo.shape_overlong(
        group([whole, None, by_turn], [episode(3), episode(18), episode(9, 9)]), most=20, cache=4
    )
    assert shaped.rewards == (
        Reward(2.0, {"iou": 2.0, "overlong": 0.0}),
        None,
        Reward(1.5, {"iou": 2.0, "overlong": -0.5}, (0.5, 1.0)),
    )
    assert shaped.rewards[0] is not None
    assert shaped.rewards[0].masks == seen


@pytest.mark.parametrize("aggregation", grpo.AGGREGATIONS)
def test_shares_need_no_other_group(aggregation: str) -> None:
    counts = [3, 0, 5, 2]
    shares = grpo.token_shares(counts, aggregation)
    alone = grpo.token_shares(counts[:2], aggregation) + grpo.token_shares(counts[2:], aggregation)
    assert shares == alone
    divisor = grpo.batch_divisor(counts, aggregation, max_tokens=10)
    weights = grpo.token_weights(counts, aggregation, max_tokens=10)
    assert [share / divisor for share in shares] == weights
    assert grpo.batch_divisor([0, 0], aggregation, max_tokens=10) == 1.0


def test_a_clamped_estimate_has_no_gradient_beyond_its_bound() -> None:
    logprob_N = torch.tensor([-1.0, -4.0], requires_grad=True)
    reference_N = torch.tensor([-1.5, -0.5])
    free_N = grpo.kl(logprob_N, reference_N, "k3")
    clamped_N = grpo.kl(logprob_N, reference_N, "k3", clamp=10.0)
    assert free_N[1].item() > 10
    assert clamped_N.tolist() == [free_N[0].item(), 10.0]

    clamped_N.sum().backward()
    assert logprob_N.grad is not None
    assert logprob_N.grad[0].item() > 0
    assert logprob_N.grad[1].item() == 0


def test_kl_estimators_agree_with_the_exact_divergence() -> None:
    rng = torch.Generator().manual_seed(1)
    p = torch.randn(7, generator=rng, dtype=torch.float64).log_softmax(0)
    q = torch.randn(7, generator=rng, dtype=torch.float64).log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    # These two are unbiased under p.
    for estimator in ("k1", "k3"):
        expectation = (p.exp() * grpo.kl(p, q, estimator)).sum()
        torch.testing.assert_close(expectation, exact)
    torch.testing.assert_close(grpo.kl(p, q, "k2"), (p - q) ** 2 / 2)
    assert (grpo.kl(p, q, "k3") >= 0).all()
    assert (grpo.kl(p, p, "k3") == 0).all()
    with pytest.raises(ValueError, match="k1, k2, k3"):
        grpo.kl(p, q, "k4")


def test_importance_ratios_of_tokens_and_of_episodes() -> None:
    old = torch.tensor([-1.0, -1.0, -1.0, -2.0], dtype=torch.float64, requires_grad=True)
    engine = torch.tensor([-1.5, -3.0, -0.5, -2.25], dtype=torch.float64)
    episode_N = torch.tensor([7, 7, 3, 3])
    tokens = grpo.importance_ratios(old, engine, episode_N, "token")
    np.testing.assert_allclose(tokens.numpy(), np.exp([0.5, 2.0, -0.5, 0.25]))
    episodes = grpo.importance_ratios(old, engine, episode_N, "sequence")
    np.testing.assert_allclose(episodes.numpy(), np.exp([2.5, 2.5, -0.25, -0.25]))
    assert not tokens.requires_grad
    assert not episodes.requires_grad
    with pytest.raises(ValueError, match="token, sequence"):
        grpo.importance_ratios(old, engine, episode_N, "turn")


def test_importance_ratios_stay_finite() -> None:
    far = torch.tensor([1e6, 1e6])
    ratios = grpo.importance_ratios(far, torch.zeros(2), torch.tensor([0, 0]), "sequence")
    assert ratios.isfinite().all()
    assert math.isfinite(float(ratios.sum()))
