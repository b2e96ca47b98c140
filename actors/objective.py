"""What one row contributes to the step's loss, and to its report. Tensors and numbers: no process, no DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from configs.schema import GrpoConfig
from core import grpo
from core.batch import GroupBatch
from core.losses import LOSSES, Bounds

Sums = dict[
    str, float
]  # sums, extremes and counts over trained tokens, by a name that ends with how they combine
WATCHED_CAP = 2.0  # what "importance_above_cap" counts while grpo.importance_cap is off


def _total(values: list[float]) -> float:
    """`math.fsum` refuses inf - inf, which a step that went wrong may report."""
    return math.fsum(values) if all(math.isfinite(v) for v in values) else float(sum(values))


_JOIN: dict[str, Callable[[list[float]], float]] = {"sum": _total, "max": max, "min": min}


def grpo_loss(
    logprob_N: Tensor,
    entropy_N: Tensor,
    row: GroupBatch,
    cfg: GrpoConfig,
    *,
    old_N: Tensor,
    reference_N: Tensor | None,
    off_policy: bool,
    text_N: Tensor | None = None,
) -> tuple[Tensor, Sums]:
    """The row's share of the global loss, sum(weight * (surrogate + kl_coef KL - entropy_coef entropy)).

    `old_N`: the learner's own log-probs before this batch's first optimizer step. `off_policy`: the samples may come
    from an older policy, so the surrogate is weighted by truncated importance weights (reported in any case).
    `text_N`: what the KL term compares, where `logprob_N` says more than text (calibrated masks).
    """
    as_tensor = lambda a: torch.as_tensor(a, dtype=logprob_N.dtype, device=logprob_N.device)
    engine_N = as_tensor(row.engine_logprob_N)
    weight_N = as_tensor(row.weight_N)
    episode_N = torch.as_tensor(row.episode_N, device=logprob_N.device)
    bounds = Bounds(cfg.clip_low, cfg.clip_high, cfg.dual_clip)
    surrogate = LOSSES[cfg.loss](logprob_N, old_N, as_tensor(row.advantage_N), episode_N, bounds)
    loss_N = surrogate.loss_N
    importance_N = grpo.importance_ratios(old_N, engine_N, episode_N, cfg.importance)
    if off_policy and cfg.importance_cap > 0:
        loss_N = loss_N * importance_N.clamp(max=cfg.importance_cap)
    kl_N = torch.zeros_like(loss_N)
    if reference_N is not None:
        kl_N = grpo.kl(logprob_N if text_N is None else text_N, reference_N, cfg.kl_estimator)
        loss_N = loss_N + cfg.kl_coef * kl_N
    if cfg.entropy_coef:
        loss_N = loss_N - cfg.entropy_coef * entropy_N
    loss = (weight_N * loss_N).sum()
    sums = _base(loss, entropy_N, row)
    if sums["tokens_sum"]:
        gap_N = (logprob_N - engine_N).abs()
        sums |= {
            "gap_sum": float(gap_N.sum()),
            "gap_max": float(gap_N.max()),
            "kl_sum": float(kl_N.sum()),
            "clipped_sum": float(surrogate.clipped_N.sum()),
            "ratio_sum": float(surrogate.ratio_N.sum()),
            "ratio_max": float(surrogate.ratio_N.max()),
            "ratio_min": float(surrogate.ratio_N.min()),
            "importance_sum": float(importance_N.sum()),
            "importance_max": float(importance_N.max()),
            "above_sum": float((importance_N > (cfg.importance_cap or WATCHED_CAP)).sum()),
        }
    return loss, sums


def imitation_loss(logprob_N: Tensor, entropy_N: Tensor, row: GroupBatch) -> tuple[Tensor, Sums]:
    """Cross-entropy on the demonstrated completions: -sum(weight * log-prob)."""
    weight_N = torch.as_tensor(row.weight_N, dtype=logprob_N.dtype, device=logprob_N.device)
    loss = -(weight_N * logprob_N).sum()
    return loss, _base(loss, entropy_N, row)


def with_masks(loss: Tensor, sums: Sums, auxiliary: Tensor) -> tuple[Tensor, Sums]:
    """The same with the row's share of the mask losses, of a policy that draws."""
    value = float(auxiliary.detach())
    return loss + auxiliary, sums | {"loss_sum": sums["loss_sum"] + value, "mask_loss_sum": value}


def _base(loss: Tensor, entropy_N: Tensor, row: GroupBatch) -> Sums:
    """A dummy row has weight 0 throughout and counts nowhere."""
    if not row.weight_N.any():
        return {"loss_sum": 0.0, "tokens_sum": 0.0}
    return {
        "loss_sum": float(loss.detach()),
        "tokens_sum": float(len(row.weight_N)),
        "row_tokens_sum": float(len(row.ids_T)),
        "rows_sum": 1.0,
        "entropy_sum": float(entropy_N.detach().sum()),
    }


def must_fail(loss: Tensor, logprob_N: Tensor) -> Tensor:
    """The loss; if it is not finite, one whose gradient is not finite either: the optimizer's check then finds it, on
    every rank, and drops the step. A bound may have taken away the gradient of the token that went wrong."""
    return loss if loss.isfinite() else math.nan * logprob_N.sum()


def join(many: Sequence[Sums]) -> Sums:
    """Sums of several rows, or of several ranks, as one."""
    names = {name for sums in many for name in sums}
    return {n: _JOIN[n.rsplit("_", 1)[1]]([s[n] for s in many if n in s]) for n in sorted(names)}


def means(first: Sums, last: Sums) -> dict[str, float]:
    """Means over trained tokens of one batch: engine gap and entropy at its first optimizer step, when the weights are
    those that played; ratios, clipping and KL at its last."""
    tokens = max(first["tokens_sum"], 1.0)
    masks = {"mask_loss": first["mask_loss_sum"]} if "mask_loss_sum" in first else {}
    return masks | {
        "logprob_gap_mean": first.get("gap_sum", 0.0) / tokens,
        "logprob_gap_max": first.get("gap_max", 0.0),
        "entropy": first.get("entropy_sum", 0.0) / tokens,
        "importance_mean": first.get("importance_sum", tokens) / tokens,
        "importance_max": first.get("importance_max", 1.0),
        "importance_above_cap": first.get("above_sum", 0.0) / tokens,
        "kl": last.get("kl_sum", 0.0) / tokens,
        "clip_fraction": last.get("clipped_sum", 0.0) / tokens,
        "ratio_mean": last.get("ratio_sum", tokens) / tokens,
        "ratio_max": last.get("ratio_max", 1.0),
        "ratio_min": last.get("ratio_min", 1.0),
        "trained_tokens": first["tokens_sum"],
        "row_tokens": first.get("row_tokens_sum", 0.0),
        "rows": first.get("rows_sum", 0.0),
    }
