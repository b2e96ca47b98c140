"""The mathematics of group-relative policy optimisation: advantages, token weights, KL, importance ratios.

Pure functions on numbers and tensors of any float type. This file knows no model, no process and no paper's preset.

The loss of a step is one sum over the tokens of the *global* batch, `sum(weight_N * loss_N)`: the weights come from
counts of the whole batch, so the result does not depend on packing, on micro-batches or on the number of learners.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor

from core.losses.surrogate import episode_sum
from core.types import End, Group, Reward

AGGREGATIONS = ("token_mean", "sequence_mean", "dr_grpo")
KL_ESTIMATORS = ("k1", "k2", "k3")
IMPORTANCE_LEVELS = ("token", "sequence")
_LARGEST_LOG = (
    20.0  # of an importance ratio: a product over a long episode must stay a number in reports
)
_SAME = 1e-9  # returns closer than this are equal: sums of the same parts in another order differ by rounding


def normalise(
    returns_G: Sequence[float | None], *, std: bool, eps: float, unbiased: bool = True
) -> tuple[float, ...]:
    """Group-relative advantages (GRPO; ReVSeg, Eq. 9): (r - mean) / (std + eps), or r - mean.

    None (a FAILED episode) is left out of mean and deviation and gets 0. Equal returns, or a single one, give 0.
    """
    valid = [r for r in returns_G if r is not None]
    if len(valid) < 2 or max(valid) - min(valid) <= _SAME * max(1.0, max(abs(r) for r in valid)):
        return (0.0,) * len(returns_G)
    mean = math.fsum(valid) / len(valid)
    scale = 1.0
    if std:
        scale = (
            math.sqrt(math.fsum((r - mean) ** 2 for r in valid) / (len(valid) - int(unbiased)))
            + eps
        )
    return tuple(0.0 if r is None else (r - mean) / scale for r in returns_G)


def judge(group: Group, *, std: bool = True, eps: float = 1e-6) -> Group:
    """The same group with `advantages_G` from the totals of its rewards."""
    totals_G = [None if r is None else r.total for r in group.rewards]
    return dataclasses.replace(group, advantages_G=normalise(totals_G, std=std, eps=eps))


def turn_advantages(
    rewards_G: Sequence[Reward | None], turns_G: Sequence[int], *, std: bool, eps: float
) -> list[tuple[float, ...]]:
    """Advantages for each turn (ours): turn t is credited with the rewards earned from turn t on, normalised over
    the episodes of the group that have a turn t.

    `turns_G`: number of turns of each episode. A reward that does not tell its turns apart counts whole everywhere.
    """
    returns = [
        [_return_from(reward, t) for t in range(n)]
        for reward, n in zip(rewards_G, turns_G, strict=True)
    ]
    columns = []
    for t in range(max(turns_G, default=0)):
        columns.append(normalise([r[t] if t < len(r) else None for r in returns], std=std, eps=eps))
    return [tuple(columns[t][g] for t in range(n)) for g, n in enumerate(turns_G)]


def _return_from(reward: Reward | None, turn: int) -> float | None:
    if reward is None:
        return None
    return math.fsum(reward.per_turn[turn:]) if reward.per_turn else reward.total


def credit(group: Group, *, per_turn: bool, std: bool, eps: float) -> list[tuple[float, ...]]:
    """One advantage for each turn of each episode: the episode's own for all its turns, or `turn_advantages`.

    Those compare trainable turns alone: helper turns, which not every episode has, take no place and get 0.
    """
    turns_G = [len(e.turns) for e in group.episodes]
    if per_turn:
        trained_G = [sum(t.trainable for t in e.turns) for e in group.episodes]
        own_G = [iter(row) for row in turn_advantages(group.rewards, trained_G, std=std, eps=eps)]
        pairs = zip(group.episodes, own_G, strict=True)
        return [tuple(next(own) if t.trainable else 0.0 for t in e.turns) for e, own in pairs]
    if len(group.advantages_G) != len(group.episodes):
        raise ValueError(
            f"group {group.sample_uid!r} has {len(group.episodes)} episodes and {len(group.advantages_G)} advantages: "
            "call core.grpo.judge(group) before learning"
        )
    return [(a,) * n for a, n in zip(group.advantages_G, turns_G, strict=True)]


def trained_tokens(group: Group) -> list[int]:
    """Number of completion tokens the learner trains in each episode; 0 for a FAILED one."""
    return [
        0 if e.end is End.FAILED else sum(len(t.completion_ids) for t in e.turns if t.trainable)
        for e in group.episodes
    ]


def token_weights(counts: Sequence[int], aggregation: str, *, max_tokens: int) -> list[float]:
    """Weight of every trained token of each episode of the global batch; `counts` are its trained tokens.

    token_mean: 1 / all tokens (DAPO, Eq. 8). sequence_mean: mean over episodes of the mean over their tokens (GRPO).
    dr_grpo: 1 / (episodes * max_tokens), so that long answers are not discounted (Dr. GRPO, Sec. 3).
    An episode without trained tokens is no episode.
    """
    total = sum(counts)
    episodes = sum(n > 0 for n in counts)
    if aggregation == "token_mean":
        return [1.0 / total if n else 0.0 for n in counts]
    if aggregation == "sequence_mean":
        return [1.0 / (episodes * n) if n else 0.0 for n in counts]
    if aggregation == "dr_grpo":
        return [1.0 / (episodes * max_tokens) if n else 0.0 for n in counts]
    raise ValueError(f"grpo.aggregation={aggregation!r}: one of {', '.join(AGGREGATIONS)}")


def kl(logprob_N: Tensor, reference_N: Tensor, estimator: str) -> Tensor:
    """Estimators of KL(policy || reference) at sampled tokens (Schulman, "Approximating KL divergence")."""
    d_N = reference_N - logprob_N
    if estimator == "k1":
        return -d_N
    if estimator == "k2":
        return 0.5 * d_N**2
    if estimator == "k3":
        return d_N.exp() - d_N - 1.0
    raise ValueError(f"grpo.kl_estimator={estimator!r}: one of {', '.join(KL_ESTIMATORS)}")


def importance_ratios(old_N: Tensor, engine_N: Tensor, episode_N: Tensor, level: str) -> Tensor:
    """How much likelier the learner finds what the engine sampled, exp(old - engine), detached.

    token: of each token (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    sequence: of the whole episode, the product over its tokens, for each of them (Liu et al. 2025, "When speed kills
    stability"): unbiased where the token's is not, with more variance.
    """
    log_N = old_N - engine_N
    if level == "sequence":
        log_N = episode_sum(log_N, episode_N)
    elif level != "token":
        raise ValueError(f"grpo.importance={level!r}: one of {', '.join(IMPORTANCE_LEVELS)}")
    return log_N.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp().detach()
