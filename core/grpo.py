"""Mathematics of group-relative policy optimisation: advantages, weights, KL, importance ratios.

Pure functions on numbers and tensors of any float type.

The loss of a step is one sum over the tokens of the *global* batch, `sum(weight_N * loss_N)`. The
weights come from counts of the whole batch, so the result does not depend on packing, on
micro-batches or on the number of learners. A weight is a share of the token alone, divided by one
count of the batch, which need not be known before the last group has come.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor

from core.losses.surrogate import episode_sum
from core.types import End, Episode, Group, Reward

AGGREGATIONS = ("token_mean", "sequence_mean", "dr_grpo")
KL_ESTIMATORS = ("k1", "k2", "k3")
IMPORTANCE_LEVELS = ("token", "sequence")

# Bound of an importance ratio's logarithm: a product over a long episode must stay a finite number.
_LARGEST_LOG = 20.0
# Returns closer than this count as equal, because the same parts added in another order differ by
# rounding.
_SAME = 1e-9


def normalise(
    returns_G: Sequence[float | None],
    *,
    std: bool,
    eps: float,
    unbiased: bool = True,
) -> tuple[float, ...]:
    """Return group-relative advantages: (r - mean) / (std + eps), or r - mean without `std`.

    None (a FAILED episode) is left out of mean and deviation and gets 0. Equal returns, or a single
    one, give 0. Source: GRPO; ReVSeg, Eq. 9.
    """
    valid = [r for r in returns_G if r is not None]
    if len(valid) < 2:
        return (0.0,) * len(returns_G)
    largest = max(1.0, max(abs(r) for r in valid))
    if max(valid) - min(valid) <= _SAME * largest:
        return (0.0,) * len(returns_G)

    mean = math.fsum(valid) / len(valid)
    scale = 1.0
    if std:
        squares = math.fsum((r - mean) ** 2 for r in valid)
        scale = math.sqrt(squares / (len(valid) - int(unbiased))) + eps
    advantages_G = []
    for r in returns_G:
        advantages_G.append(0.0 if r is None else (r - mean) / scale)
    return tuple(advantages_G)


def overlong_penalty(tokens: int, most: int, cache: int) -> float:
    """Return DAPO's soft punishment of a long episode, from 0 down to -1 (Eq. 13).

    Args:
        tokens: number of its trained tokens.
        most: number from which it is whole.
        cache: number of tokens before `most` in which it grows.
    """
    beyond = tokens - (most - cache)
    return -min(max(beyond / cache, 0.0), 1.0)


def shape_overlong(group: Group, most: int, cache: int) -> Group:
    """Return the group with `overlong_penalty` in its rewards, as their part "overlong".

    The last turn bears it, since it made the episode too long.
    """
    rewards: list[Reward | None] = []
    for reward, tokens in zip(group.rewards, trained_tokens(group), strict=True):
        if reward is not None:
            penalty = overlong_penalty(tokens, most, cache)
            per_turn = reward.per_turn
            if per_turn:
                per_turn = (*per_turn[:-1], per_turn[-1] + penalty)
            parts = {**reward.parts, "overlong": penalty}
            total = reward.total + penalty
            reward = dataclasses.replace(reward, total=total, parts=parts, per_turn=per_turn)
        rewards.append(reward)
    return dataclasses.replace(group, rewards=tuple(rewards))


def judge(group: Group, *, std: bool = True, eps: float = 1e-6) -> Group:
    """Return the group with `advantages_G` from the totals of its rewards."""
    totals_G = [None if reward is None else reward.total for reward in group.rewards]
    return dataclasses.replace(group, advantages_G=normalise(totals_G, std=std, eps=eps))


def turn_advantages(
    rewards_G: Sequence[Reward | None],
    turns_G: Sequence[int],
    *,
    std: bool,
    eps: float,
) -> list[tuple[float, ...]]:
    """Return an advantage for each turn of each episode.

    Turn t is credited with the rewards earned from turn t on, normalised over the episodes with a
    turn t. A reward without `per_turn` counts whole in every turn. This scheme is chosen by this
    project.

    Args:
        rewards_G: None for a FAILED episode.
        turns_G: number of turns of each episode.
    """
    advantages_G: list[list[float]] = [[] for _ in turns_G]
    for turn in range(max(turns_G, default=0)):
        returns_G = []
        for reward, count in zip(rewards_G, turns_G, strict=True):
            has_turn = turn < count
            returns_G.append(_return_from(reward, turn) if has_turn else None)
        column_G = normalise(returns_G, std=std, eps=eps)
        for advantages, count, advantage in zip(advantages_G, turns_G, column_G, strict=True):
            if turn < count:
                advantages.append(advantage)
    return [tuple(advantages) for advantages in advantages_G]


def _return_from(reward: Reward | None, turn: int) -> float | None:
    if reward is None:
        return None
    if not reward.per_turn:
        return reward.total
    return math.fsum(reward.per_turn[turn:])


def credit(
    group: Group,
    *,
    per_turn: bool,
    std: bool,
    eps: float,
) -> list[tuple[float, ...]]:
    """Return one advantage for each turn of each episode.

    All turns share the episode's advantage, or with `per_turn` each has its own
    (`turn_advantages`). Then only trainable turns are compared; turns of a frozen helper get 0.

    Raises:
        ValueError: the group has no advantages yet (`judge`).
    """
    if per_turn:
        return _credit_per_turn(group, std=std, eps=eps)

    if len(group.advantages_G) != len(group.episodes):
        raise ValueError(
            f"group {group.sample_uid!r} has {len(group.episodes)} episodes and "
            f"{len(group.advantages_G)} advantages: call core.grpo.judge(group) before learning"
        )
    pairs = zip(group.advantages_G, group.episodes, strict=True)
    return [(advantage,) * len(episode.turns) for advantage, episode in pairs]


def _credit_per_turn(group: Group, *, std: bool, eps: float) -> list[tuple[float, ...]]:
    trainable_G = []
    for episode in group.episodes:
        trainable_G.append(sum(turn.trainable for turn in episode.turns))
    advantages_G = turn_advantages(group.rewards, trainable_G, std=std, eps=eps)
    credits = []
    for episode, advantages in zip(group.episodes, advantages_G, strict=True):
        remaining = iter(advantages)
        per_turn = []
        for turn in episode.turns:
            per_turn.append(next(remaining) if turn.trainable else 0.0)
        credits.append(tuple(per_turn))
    return credits


def trained_tokens(group: Group) -> list[int]:
    """Return the number of trained completion tokens of each episode; 0 for a FAILED one."""
    return [_trained_tokens(episode) for episode in group.episodes]


def _trained_tokens(episode: Episode) -> int:
    if episode.end is End.FAILED:
        return 0
    return sum(len(turn.completion_ids) for turn in episode.turns if turn.trainable)


def token_weights(counts: Sequence[int], aggregation: str, *, max_tokens: int) -> list[float]:
    """Return the weight of every trained token of each episode of the global batch.

    token_mean: 1 / all tokens (DAPO, Eq. 8).
    sequence_mean: mean over episodes of the mean over their tokens (GRPO).
    dr_grpo: 1 / (episodes * max_tokens); long answers are not discounted (Dr. GRPO, Sec. 3).

    An episode without trained tokens does not count as an episode.

    Args:
        counts: number of trained tokens of each episode.
        aggregation: one of `AGGREGATIONS`.
        max_tokens: largest number of tokens of an episode.
    """
    shares = token_shares(counts, aggregation)
    divisor = batch_divisor(counts, aggregation, max_tokens=max_tokens)
    return [share / divisor for share in shares]


def token_shares(counts: Sequence[int], aggregation: str) -> list[float]:
    """Return the weight of every trained token of each episode, before the division by a count.

    It needs no other episode, so a batch may be added up while it is not whole yet
    (`batch_divisor`).
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"grpo.aggregation={aggregation!r}: one of {', '.join(AGGREGATIONS)}")
    shares: list[float] = []
    for count in counts:
        share = 1.0 if count else 0.0
        if count and aggregation == "sequence_mean":
            share = 1.0 / count
        shares.append(share)
    return shares


def batch_divisor(counts: Sequence[int], aggregation: str, *, max_tokens: int) -> float:
    """Return the count of the global batch that turns shares into weights; at least 1.

    Args:
        counts: number of trained tokens of each episode of the batch.
        max_tokens: largest number of tokens of an episode.
    """
    episodes = sum(count > 0 for count in counts)
    divisors = {
        "token_mean": sum(counts),
        "sequence_mean": episodes,
        "dr_grpo": episodes * max_tokens,
    }
    return float(max(divisors[aggregation], 1))


def kl(logprob_N: Tensor, reference_N: Tensor, estimator: str, clamp: float = 0.0) -> Tensor:
    """Estimate KL(policy || reference) at sampled tokens (Schulman, "Approximating KL divergence").

    Args:
        logprob_N: log-probs of the policy.
        reference_N: log-probs of the reference.
        estimator: one of `KL_ESTIMATORS`.
        clamp: largest absolute value of a token's estimate, beyond which it has no gradient; 0 for
            none. Seg-Zero's low_var_kl is k3 with 10.
    """
    kl_N = _kl(reference_N - logprob_N, estimator)
    return kl_N.clamp(-clamp, clamp) if clamp > 0 else kl_N


def _kl(d_N: Tensor, estimator: str) -> Tensor:
    if estimator == "k1":
        return -d_N
    if estimator == "k2":
        return 0.5 * d_N**2
    if estimator == "k3":
        return d_N.exp() - d_N - 1.0
    raise ValueError(f"grpo.kl_estimator={estimator!r}: one of {', '.join(KL_ESTIMATORS)}")


def importance_ratios(old_N: Tensor, engine_N: Tensor, episode_N: Tensor, level: str) -> Tensor:
    """Return exp(old - engine), the learner's likelihood over the engine's, detached.

    token: of each token (Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training").
    sequence: of the whole episode, the product over its tokens, at each of them (Liu et al. 2025,
    "When speed kills stability"). It is unbiased, unlike the token's, with more variance.

    Args:
        old_N: log-probs of the learner before the update.
        engine_N: log-probs of the engine.
        episode_N: number of each token's episode.
        level: one of `IMPORTANCE_LEVELS`.
    """
    log_N = old_N - engine_N
    if level == "sequence":
        log_N = episode_sum(log_N, episode_N)
    elif level != "token":
        raise ValueError(f"grpo.importance={level!r}: one of {', '.join(IMPORTANCE_LEVELS)}")
    return log_N.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp().detach()
