"""The loss of one row, and statistics of it for the report of a step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from configs.schema import GrpoConfig
from core import grpo
from core.batch import GroupBatch
from core.losses import LOSSES, ClipBounds, Surrogate

# Bound that the metric "importance_above_cap" counts by while grpo.importance_cap is off.
WATCHED_CAP = 2.0


@dataclass(frozen=True)
class RatioStats:
    """Comparisons of two policies: sums and extremes over trained tokens.

    Attributes:
        gap_sum: absolute differences of log-probs between engine and learner.
        kl_sum: KL estimates to the reference.
        clipped_sum: number of clipped tokens.
        ratio_sum: probability ratios of the learner's policy to itself before the batch.
        importance_sum: importance weights of the learner's policy to the engine's.
        above_cap_sum: number of importance weights above the cap.
        gap_by_age: sum of the gaps and number of tokens by their age: the updates between the
            weights that sampled them and the learner's.
    """

    gap_sum: float
    gap_max: float
    kl_sum: float
    clipped_sum: float
    ratio_sum: float
    ratio_max: float
    ratio_min: float
    importance_sum: float
    importance_max: float
    above_cap_sum: float
    gap_by_age: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Sequence[RatioStats]) -> RatioStats:
        """Combine the statistics of several rows or ranks."""
        return cls(
            gap_sum=_sum([part.gap_sum for part in parts]),
            gap_max=max(part.gap_max for part in parts),
            kl_sum=_sum([part.kl_sum for part in parts]),
            clipped_sum=_sum([part.clipped_sum for part in parts]),
            ratio_sum=_sum([part.ratio_sum for part in parts]),
            ratio_max=max(part.ratio_max for part in parts),
            ratio_min=min(part.ratio_min for part in parts),
            importance_sum=_sum([part.importance_sum for part in parts]),
            importance_max=max(part.importance_max for part in parts),
            above_cap_sum=_sum([part.above_cap_sum for part in parts]),
            gap_by_age=_total_by_age([part.gap_by_age for part in parts]),
        )


@dataclass(frozen=True)
class RowStats:
    """Statistics of one row, or of several together. Those of a dummy row are all 0.

    Attributes:
        loss: share of the global loss.
        tokens: number of trained tokens.
        row_tokens: number of all tokens.
        rows: number of rows.
        entropy_sum: entropies of the trained tokens.
        mask_loss: share of the mask losses; None for a policy without a mask head.
        ratios: comparison of policies; None in imitation.
        entropies: of the trained tokens, by the number of their episode; none in imitation.
    """

    loss: float = 0.0
    tokens: float = 0.0
    row_tokens: float = 0.0
    rows: float = 0.0
    entropy_sum: float = 0.0
    mask_loss: float | None = None
    ratios: RatioStats | None = None
    entropies: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def total(cls, parts: Sequence[RowStats]) -> RowStats:
        """Combine the statistics of several rows or ranks. Sums do not depend on their order."""
        mask_losses = [part.mask_loss for part in parts if part.mask_loss is not None]
        ratios = [part.ratios for part in parts if part.ratios is not None]
        entropies: dict[int, np.ndarray] = {}
        for part in parts:
            entropies |= part.entropies
        return cls(
            loss=_sum([part.loss for part in parts]),
            tokens=_sum([part.tokens for part in parts]),
            row_tokens=_sum([part.row_tokens for part in parts]),
            rows=_sum([part.rows for part in parts]),
            entropy_sum=_sum([part.entropy_sum for part in parts]),
            mask_loss=_sum(mask_losses) if mask_losses else None,
            ratios=RatioStats.total(ratios) if ratios else None,
            entropies=entropies,
        )

    def divided(self, divisor: float) -> RowStats:
        """Return the statistics with their losses divided by the count of the batch."""
        mask_loss = self.mask_loss
        if mask_loss is not None:
            mask_loss = mask_loss / divisor
        return replace(self, loss=self.loss / divisor, mask_loss=mask_loss)


@dataclass(frozen=True)
class StepReport:
    """Report of one rank on one optimizer step.

    Attributes:
        stats: statistics of this rank's rows.
        grad_norm: norm of the gradients before clipping; None if the step was skipped.
        lr: learning rate.
        weight_max: largest absolute value of this rank's trained weights after the step.
        seconds: time that the rank computed.
    """

    stats: RowStats
    grad_norm: float | None
    lr: float
    weight_max: float
    seconds: float


def grpo_loss(
    logprob_N: Tensor,
    entropy_N: Tensor,
    row: GroupBatch,
    cfg: GrpoConfig,
    *,
    old_N: Tensor,
    reference_N: Tensor | None,
    off_policy: bool,
    newest: int = 0,
    text_N: Tensor | None = None,
) -> tuple[Tensor, RowStats]:
    """Return the row's share of the global loss, and its statistics.

    The loss is sum(weight * (surrogate + kl_coef * KL - entropy_coef * entropy)).

    Args:
        old_N: the learner's own log-probs before this batch's first optimizer step.
        reference_N: log-probs of the reference policy; None without a KL term.
        off_policy: the samples may come from an older policy, so the surrogate is weighted by
            truncated importance weights. These are reported in any case.
        newest: version of the learner's weights; older tokens have an age.
        text_N: log-probs of the text alone, for the KL term, if `logprob_N` also holds the
            likelihood of drawn masks.
    """
    engine_N = _tensor_like(row.engine_logprob_N, logprob_N)
    advantage_N = _tensor_like(row.advantage_N, logprob_N)
    weight_N = _tensor_like(row.weight_N, logprob_N)
    episode_N = torch.as_tensor(row.episode_N, device=logprob_N.device)

    # The policy-gradient loss.
    bounds = ClipBounds(cfg.clip_low, cfg.clip_high, cfg.dual_clip)
    surrogate = LOSSES[cfg.loss](logprob_N, old_N, advantage_N, episode_N, bounds)
    loss_N = surrogate.loss_N

    # Corrections and further terms.
    importance_N = grpo.importance_ratios(old_N, engine_N, episode_N, cfg.importance)
    if off_policy and cfg.importance_cap > 0:
        loss_N = loss_N * importance_N.clamp(max=cfg.importance_cap)

    kl_N = torch.zeros_like(loss_N)
    if reference_N is not None:
        compared_N = logprob_N if text_N is None else text_N
        kl_N = grpo.kl(compared_N, reference_N, cfg.kl_estimator, cfg.kl_clamp)
        loss_N = loss_N + cfg.kl_coef * kl_N

    if cfg.entropy_coef:
        loss_N = loss_N - cfg.entropy_coef * entropy_N

    loss = (weight_N * loss_N).sum()
    stats = _row_stats(loss, entropy_N, row)
    if not stats.tokens:
        return loss, stats

    gap_N = (logprob_N - engine_N).abs()
    cap = cfg.importance_cap or WATCHED_CAP
    ratios = _ratio_stats(gap_N, kl_N, surrogate, importance_N, cap)
    by_age = _gap_by_age(gap_N, row, newest)
    return loss, replace(
        stats, ratios=replace(ratios, gap_by_age=by_age), entropies=_by_episode(entropy_N, row)
    )


@torch.no_grad()
def _ratio_stats(
    gap_N: Tensor, kl_N: Tensor, surrogate: Surrogate, importance_N: Tensor, cap: float
) -> RatioStats:
    return RatioStats(
        gap_sum=float(gap_N.sum()),
        gap_max=float(gap_N.max()),
        kl_sum=float(kl_N.sum()),
        clipped_sum=float(surrogate.clipped_N.sum()),
        ratio_sum=float(surrogate.ratio_N.sum()),
        ratio_max=float(surrogate.ratio_N.max()),
        ratio_min=float(surrogate.ratio_N.min()),
        importance_sum=float(importance_N.sum()),
        importance_max=float(importance_N.max()),
        above_cap_sum=float((importance_N > cap).sum()),
    )


@torch.no_grad()
def _gap_by_age(gap_N: Tensor, row: GroupBatch, newest: int) -> dict[int, tuple[float, float]]:
    """Return sum and number of the gaps by the age of their tokens, 0 for the newest weights."""
    # After a death a group may have been played with newer weights than those of its step.
    age_N = np.maximum(newest - row.version_N, 0)
    found: dict[int, tuple[float, float]] = {}
    for age in np.unique(age_N).tolist():
        chosen_N = torch.from_numpy(age_N == age).to(gap_N.device)
        found[age] = (float(gap_N[chosen_N].sum()), float(chosen_N.sum()))
    return found


def _by_episode(entropy_N: Tensor, row: GroupBatch) -> dict[int, np.ndarray]:
    """Return the entropies of each episode's trained tokens, in order; a row has it whole."""
    there_N = entropy_N.detach().float().cpu().numpy()
    found: dict[int, np.ndarray] = {}
    for episode in np.unique(row.episode_N).tolist():
        found[episode] = there_N[row.episode_N == episode]
    return found


def imitation_loss(
    logprob_N: Tensor, entropy_N: Tensor, row: GroupBatch
) -> tuple[Tensor, RowStats]:
    """Return the cross-entropy on demonstrated completions, -sum(weight * log-prob)."""
    weight_N = _tensor_like(row.weight_N, logprob_N)
    loss = -(weight_N * logprob_N).sum()
    return loss, _row_stats(loss, entropy_N, row)


def add_mask_loss(loss: Tensor, stats: RowStats, auxiliary: Tensor) -> tuple[Tensor, RowStats]:
    """Add the row's share of the mask losses."""
    value = float(auxiliary.detach())
    return loss + auxiliary, replace(stats, loss=stats.loss + value, mask_loss=value)


def _tensor_like(array_N: np.ndarray, other: Tensor) -> Tensor:
    return torch.as_tensor(array_N, dtype=other.dtype, device=other.device)


def _row_stats(loss: Tensor, entropy_N: Tensor, row: GroupBatch) -> RowStats:
    is_dummy = not row.weight_N.any()
    if is_dummy:
        return RowStats()
    return RowStats(
        loss=float(loss.detach()),
        tokens=float(len(row.weight_N)),
        row_tokens=float(len(row.ids_T)),
        rows=1.0,
        entropy_sum=float(entropy_N.detach().sum()),
    )


def spread_failure(loss: Tensor, logprob_N: Tensor) -> Tensor:
    """Return the loss, or one with a gradient of NaN if the loss is not finite.

    A bound in the loss may have removed the gradient of the bad token. With NaN in the gradient
    the optimizer's check fails on every rank, and the step is dropped.
    """
    return loss if loss.isfinite() else math.nan * logprob_N.sum()


def batch_metrics(first: RowStats, last: RowStats) -> dict[str, float]:
    """Return the metrics of a batch, as means over its trained tokens.

    Args:
        first: statistics of the batch's first optimizer step, still with the weights of the
            rollouts. Engine gap, entropy and importance weights are taken from it.
        last: statistics of its last step. Ratios, clipping and KL are taken from it.
    """
    tokens = max(first.tokens, 1.0)
    neutral = RatioStats(
        gap_sum=0.0,
        gap_max=0.0,
        kl_sum=0.0,
        clipped_sum=0.0,
        ratio_sum=tokens,
        ratio_max=1.0,
        ratio_min=1.0,
        importance_sum=tokens,
        importance_max=1.0,
        above_cap_sum=0.0,
    )
    before = first.ratios or neutral
    after = last.ratios or neutral

    metrics = age_metrics(before.gap_by_age)
    if first.mask_loss is not None:
        metrics["mask_loss"] = first.mask_loss
    return metrics | {
        "logprob_gap_mean": before.gap_sum / tokens,
        "logprob_gap_max": before.gap_max,
        "entropy": first.entropy_sum / tokens,
        "importance_mean": before.importance_sum / tokens,
        "importance_max": before.importance_max,
        "importance_above_cap": before.above_cap_sum / tokens,
        "kl": after.kl_sum / tokens,
        "clip_fraction": after.clipped_sum / tokens,
        "ratio_mean": after.ratio_sum / tokens,
        "ratio_max": after.ratio_max,
        "ratio_min": after.ratio_min,
        "trained_tokens": first.tokens,
        "row_tokens": first.row_tokens,
        "rows": first.rows,
    }


def age_metrics(gap_by_age: Mapping[int, tuple[float, float]]) -> dict[str, float]:
    """Return the tokens' mean and largest age in updates, and the mean gap of each age."""
    tokens = sum(count for _, count in gap_by_age.values())
    if not tokens:
        return {}
    ages = sum(age * count for age, (_, count) in gap_by_age.items())
    metrics = {"age/mean": ages / tokens, "age/max": float(max(gap_by_age))}
    for age, (gap_sum, count) in sorted(gap_by_age.items()):
        metrics[f"logprob_gap_of_age/{age}"] = gap_sum / count
    return metrics


def _total_by_age(
    parts: Sequence[Mapping[int, tuple[float, float]]],
) -> dict[int, tuple[float, float]]:
    ages = sorted(set(itertools.chain.from_iterable(parts)))
    total: dict[int, tuple[float, float]] = {}
    for age in ages:
        own = [part[age] for part in parts if age in part]
        gap_sum = _sum([gap for gap, _ in own])
        total[age] = (gap_sum, _sum([count for _, count in own]))
    return total


def _sum(values: Sequence[float]) -> float:
    """Add up exactly. `math.fsum` refuses inf - inf, but a failed step may report it."""
    if all(math.isfinite(value) for value in values):
        return math.fsum(values)
    return float(sum(values))
