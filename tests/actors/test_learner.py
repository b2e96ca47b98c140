"""Real learner ranks (Ray, DeepSpeed, gloo) beside a plain PyTorch step, one episode a row."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from core import grpo
from core.grpo import trained_tokens
from core.losses import LOSSES
from core.types import Group, Update
from models.policy.pixels import Pixels
from ray_jobs.driver.guard import Guard
from ray_jobs.record import checkpoint
from tests.actors.conftest import Batch
from tests.actors.learners import Weights, config, distance, restart, weights
from tests.models.tiny_qwen import banned_ids, reference

Pools = dict[int, LearnerPool]
# Loss, gradient norm, and weights afterwards.
PlainStep = tuple[float, float, Weights]


def load_model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def plain_step(policy_folder: Path, learner_batch: Batch) -> PlainStep:
    """One AdamW step in plain PyTorch: the formulas, one row for each episode."""
    groups, _, pixels = learner_batch
    model = load_model(policy_folder)
    found = reference(model, Pixels(policy_folder), groups, pixels, 0.9, banned_ids())
    advantages: list[float] = []
    for group in groups:
        advantages += group.advantages_G

    terms: list[Tensor] = []
    for (episode, _), (logprob, _) in found.items():
        ratio = torch.exp(logprob - logprob.detach())
        terms.append(ratio * advantages[episode])
    loss = -torch.stack(terms).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01).step()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return loss.item(), norm.item(), state


@pytest.mark.parametrize(
    ("ranks", "stage", "row_tokens"),
    [
        (1, 0, 4096),
        (1, 1, 150),
        (1, 3, 200),
        (2, 0, 4096),
        (2, 1, 4096),
        (2, 2, 150),
        (2, 3, 150),
    ],
)
def test_a_step_is_the_same_for_any_packing_ranks_and_zero_stage(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    plain_step: PlainStep,
    ranks: int,
    stage: int,
    row_tokens: int,
) -> None:
    groups, media, _ = learner_batch
    pool = restart(learner_pools, config(policy_folder, ranks, stage, row_tokens))
    before = weights(pool)
    update = pool.learn(groups, media)
    loss, norm, expected = plain_step
    assert abs(loss) > 0.01
    assert norm > 0.25
    assert update.loss == pytest.approx(loss, rel=1e-6)
    assert update.grad_norm == pytest.approx(norm, rel=1e-6)
    after = weights(pool)
    assert distance(after, expected) <= 1e-6
    assert distance(after, before) > 1e-3
    # AdamW's first step is lr * g / (|g| + eps). Where g is rounding noise its sign may differ,
    # so compare loosely.
    moved = {name: after[name] - before[name] for name in after}
    expected_moves = {name: expected[name] - before[name] for name in after}
    assert distance(moved, expected_moves) <= 1e-3

    assert update.metrics["logprob_gap_max"] <= 1e-5
    assert update.metrics["logprob_gap_mean"] <= 1e-6
    tokens = sum(sum(grpo.trained_tokens(group)) for group in groups)
    assert update.metrics["trained_tokens"] == tokens
    assert (update.metrics["rows"] > ranks) == (row_tokens < 4096)
    # On policy, exactly.
    assert update.metrics["ratio_min"] == update.metrics["ratio_max"] == 1.0


def test_a_tied_head_is_published(learner_pools: Pools, policy_folder: Path) -> None:
    published = weights(restart(learner_pools, config(policy_folder)))
    model = load_model(policy_folder)
    assert model.config.get_text_config().tie_word_embeddings
    assert "lm_head.weight" in published
    assert distance(published, dict(model.state_dict())) == 0.0


def announced_and_sent(actor: LearnerActor) -> tuple[Any, list[tuple[str, Tensor]]]:
    """In a rank: return the description and the tensors of a GPU backend."""
    from actors.whole_weights import describe, published, whole_tensors

    engine = actor.trainer.engine
    tensors: list[tuple[str, Tensor]] = []
    for name, tensor in whole_tensors(engine):
        tensors.append((name, tensor.cpu()))
    return describe(published(engine, adapter_alone=False)), tensors


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_gpu_backends_announce_and_send_the_weights_of_the_object_store(
    learner_pools: Pools, policy_folder: Path, ranks: int, stage: int
) -> None:
    pool = restart(learner_pools, config(policy_folder, ranks, stage))
    published = pool.publish(1)
    calls = [rank.actor.__ray_call__.remote(announced_and_sent) for rank in pool.ranks]
    for announced, tensors in ray.get(calls):
        assert announced == (published.names, published.dtypes, published.shapes)
        assert [name for name, _ in tensors] == list(published.names)
        assert "lm_head.weight" in published.names
        assert distance(dict(tensors), weights(pool)) == 0.0


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_gpu_backends_are_refused_on_cpu(
    learner_pools: Pools, policy_folder: Path, backend: Any
) -> None:
    cfg = config(policy_folder)
    cfg.cluster.weight_backend = backend
    with pytest.raises(
        ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"
    ):
        restart(learner_pools, cfg)


def test_zero_variance_groups_are_skipped_but_count(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch
) -> None:
    groups, media, _ = learner_batch
    flat = dataclasses.replace(groups[4], advantages_G=(0.0,) * 4)
    pool = restart(learner_pools, config(policy_folder))
    with_flat = pool.learn([*groups[:4], flat], media)
    pool = restart(learner_pools, config(policy_folder))
    without = pool.learn(groups[:4], media[:4])

    counts = [sum(grpo.trained_tokens(group)) for group in groups]
    computed = sum(counts[:4])
    assert with_flat.metrics["skipped_groups"] == 1.0
    assert without.metrics["skipped_groups"] == 0.0
    assert with_flat.metrics["trained_tokens"] == computed
    assert without.metrics["trained_tokens"] == computed
    expected_norm = without.grad_norm * computed / sum(counts)
    assert with_flat.grad_norm == pytest.approx(expected_norm, rel=1e-6)

    before = weights(pool)
    nothing = pool.learn([flat], media[4:])
    assert nothing.metrics["skipped_groups"] == 1.0
    assert nothing.metrics["logprob_gap_mean"] == 0.0
    assert distance(weights(pool), before) == 0.0


@pytest.mark.parametrize(
    ("ranks", "stage", "dtype", "offload"),
    [
        (1, 0, "float32", False),
        (1, 1, "float32", False),
        (2, 3, "float32", False),
        (2, 2, "float32", True),
        (1, 1, "bfloat16", False),
        (2, 3, "bfloat16", True),
    ],
)
def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_alone(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    ranks: int,
    stage: int,
    dtype: Any,
    offload: bool,
) -> None:
    groups, media, _ = learner_batch
    cfg = config(policy_folder, ranks, stage, offload_optimizer=offload)
    cfg.policy.dtype = dtype
    pool = restart(learner_pools, cfg)
    before = weights(pool)
    broken = dataclasses.replace(groups[0], advantages_G=(math.inf, 0.0, 0.0, 0.0))
    update = pool.learn([broken, groups[1]], media[:2])
    assert update.metrics["skipped_steps"] == 1.0
    assert math.isnan(update.grad_norm)
    assert distance(weights(pool), before) == 0.0
    update = pool.learn(groups, media)
    assert update.metrics["skipped_steps"] == 0.0
    for tensor in weights(pool).values():
        assert tensor.isfinite().all()


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [
        (1, 1),
        (2, 2),
        (2, 3),
    ],
)
def test_an_offloaded_optimizer_makes_the_same_step(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, ranks: int, stage: int
) -> None:
    groups, media, _ = learner_batch
    norms: list[list[float]] = []
    states: list[Weights] = []
    for offload in (False, True):
        cfg = config(policy_folder, ranks, stage, row_tokens=200, offload_optimizer=offload)
        pool = restart(learner_pools, cfg)
        norms.append([pool.learn(groups, media).grad_norm for _ in range(2)])
        states.append(weights(pool))
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    # DeepSpeed's CPU AdamW rounds in another order.
    assert distance(states[1], states[0]) <= 1e-4


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 2)])
def test_bfloat16_steps_gather_in_fp32_master_weights(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, ranks: int, stage: int
) -> None:
    """A step of 2e-5 is lost beside bfloat16 weights of 0.02 to 0.1. Forty move the masters."""
    groups, media, _ = learner_batch
    moved = []
    for dtype in ("float32", "bfloat16"):
        cfg = config(policy_folder, ranks, stage, lr=2e-5, grad_clip=0.0)
        cfg.policy.dtype = dtype
        pool = restart(learner_pools, cfg)
        before = weights(pool)
        for _ in range(40):
            pool.learn(groups[:2], media[:2])
        after = weights(pool)
        assert {str(tensor.dtype) for tensor in after.values()} == {f"torch.{dtype}"}
        moved.append({name: after[name].float() - before[name].float() for name in after})
    # Measured: 0.09. AdamW on bfloat16 weights alone gives 0.86.
    assert distance(moved[1], moved[0]) < 0.2


def test_bad_steps_in_a_row_stop_the_run_and_name_the_checkpoint(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, tmp_path: Path
) -> None:
    """An infinite advantage on one rank of two, then on the only row, then a good batch."""
    groups, media, _ = learner_batch
    cfg = config(policy_folder, ranks=2, max_bad_steps=2)
    pool = restart(learner_pools, cfg)
    good = checkpoint.save(tmp_path, 7, pool.save, {})
    before = weights(pool)
    broken = dataclasses.replace(groups[0], advantages_G=(math.inf, 0.0, 0.0, 0.0))
    first = pool.learn([broken, groups[1]], media[:2]).metrics
    assert first["bad_steps"] == first["skipped_steps"] == 1.0
    # One bad step does not stop the run.
    guard = Guard(cfg, tmp_path)
    guard.before_publishing(first)
    guard.after_step(first, [broken])
    assert pool.learn([broken], media[:1]).metrics["bad_steps"] == 2.0
    # Only bad steps in a row count.
    assert pool.learn(groups, media).metrics["bad_steps"] == 0.0

    pool.load(good)
    assert distance(weights(pool), before) == 0.0
    for _ in range(2):
        last = pool.learn([broken, groups[1]], media[:2]).metrics
    with pytest.raises(
        RuntimeError, match=rf"2 optimizer steps in a row .*learner.max_bad_steps=2.*{good}"
    ):
        guard.after_step(last, [broken])
    with pytest.raises(RuntimeError, match="no checkpoint was written"):
        Guard(cfg, tmp_path / "none").after_step(last, [broken])
    assert distance(weights(pool), before) == 0.0


def test_a_diverged_update_is_stopped_before_it_is_published(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, tmp_path: Path
) -> None:
    """Each rank holds only its shards of the weights here."""
    groups, media, _ = learner_batch
    cfg = config(policy_folder, ranks=2, stage=3)
    pool = restart(learner_pools, cfg)
    guard = Guard(cfg, tmp_path)
    metrics = pool.learn(groups, media).metrics
    largest = max(tensor.abs().max().item() for tensor in weights(pool).values())
    assert metrics["weight_max"] == pytest.approx(largest, rel=1e-6)
    guard.before_publishing(metrics)

    pool = restart(learner_pools, config(policy_folder, ranks=2, stage=3, lr=1e30))
    diverged = pool.learn(groups, media).metrics
    with pytest.raises(RuntimeError, match=r"largest weight is .*e\+.*above train.max_weight"):
        guard.before_publishing(diverged)


def test_imitation_lowers_the_loss(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch
) -> None:
    groups, media, _ = learner_batch
    demonstrations = []
    for group in groups:
        demonstrations.append(dataclasses.replace(group, rewards=(), advantages_G=()))
    cfg = config(policy_folder, ranks=2, stage=2, row_tokens=200, lr=1e-2, grad_clip=1.0)
    pool = restart(learner_pools, cfg)
    losses = [pool.imitate(demonstrations, media).loss for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]


def assert_entropies_agree(one: Update, other: Update, groups: Sequence[Group]) -> None:
    """Each trained token has one, the same in other rows; their mean is on record."""
    counts = list(itertools.chain.from_iterable(trained_tokens(group) for group in groups))
    for update in (one, other):
        found = [len(update.entropies[number]) for number in range(len(counts))]
        assert found == counts
        every_N = np.concatenate(list(update.entropies.values()))
        assert every_N.mean() == pytest.approx(update.metrics["entropy"], rel=1e-5)
    for number in range(len(counts)):
        assert one.entropies[number] == pytest.approx(other.entropies[number], abs=1e-5)


@pytest.mark.parametrize(
    ("aggregation", "loss", "ranks", "stage"),
    [
        ("token_mean", "grpo", 1, 0),
        ("sequence_mean", "gspo", 1, 1),
        ("dr_grpo", "cispo", 2, 2),
        ("sequence_mean", "dual_clip", 2, 3),
    ],
)
def test_groups_that_come_one_by_one_make_the_step_of_their_batch(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    aggregation: Any,
    loss: Any,
    ranks: int,
    stage: int,
) -> None:
    """Bit for bit that of the same rows at once, and to rounding that of other rows."""
    groups, media, _ = learner_batch
    # The ratio leaves 1, and the losses differ, at the second step.
    cfg = config(policy_folder, ranks, stage, row_tokens=150, optimizer_steps=2)
    cfg.grpo.aggregation = aggregation
    cfg.grpo.loss = loss
    cfg.grpo.kl_coef = 0.1
    pool = restart(learner_pools, cfg)
    opened = pool.begin()
    for group, table in zip(groups, media, strict=True):
        opened.add([group], [table])
    streamed = opened.finish()
    after = weights(pool)

    pool = restart(learner_pools, cfg)
    at_once = pool.learn(groups, media)
    assert streamed.loss == at_once.loss
    assert streamed.grad_norm == at_once.grad_norm
    assert distance(weights(pool), after) == 0.0

    one_row = dataclasses.replace(cfg, learner=dataclasses.replace(cfg.learner, row_tokens=4096))
    pool = restart(learner_pools, one_row)
    whole = pool.learn(groups, media)
    assert_entropies_agree(streamed, whole, groups)
    assert whole.metrics["rows"] == ranks
    assert streamed.metrics["rows"] > ranks
    assert streamed.loss == pytest.approx(whole.loss, rel=1e-6)
    assert streamed.grad_norm == pytest.approx(whole.grad_norm, rel=1e-6)
    assert distance(weights(pool), after) <= 1e-6


def test_kl_and_several_optimizer_steps(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch
) -> None:
    groups, media, _ = learner_batch
    cfg = config(policy_folder, row_tokens=200, optimizer_steps=3, lr=3e-3)
    cfg.grpo.kl_coef = 0.1
    cfg.rollout.max_staleness = 1
    metrics = restart(learner_pools, cfg).learn(groups, media).metrics
    # That of the third step. At the first the policy is the reference.
    assert metrics["kl"] > 1e-4
    assert metrics["ratio_min"] < 0.95
    assert metrics["ratio_max"] > 1.05
    assert metrics["clip_fraction"] > 0
    # The samples are the policy's own.
    assert metrics["importance_mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["importance_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["importance_above_cap"] == 0.0
    assert metrics["logprob_gap_max"] <= 1e-5


@pytest.mark.parametrize(
    ("level", "cap", "stale"),
    [
        ("token", 1.2, 1),
        ("sequence", 1.2, 1),
        ("sequence", 0.0, 0),
    ],
)
def test_importance_weights_are_reported_always_and_used_off_policy(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    level: Any,
    cap: float,
    stale: Any,
) -> None:
    """Shift the engine's log-probs by known amounts, and compare the loss with the formula."""
    groups, media, _ = learner_batch
    cfg = config(policy_folder, row_tokens=200)
    cfg.grpo.importance = level
    cfg.grpo.importance_cap = cap
    cfg.rollout.max_staleness = stale

    rng = np.random.default_rng(0)
    shifted_groups = []
    ratios = []
    terms = []
    for group in groups[:2]:
        episodes = []
        for episode, advantage in zip(group.episodes, group.advantages_G, strict=True):
            shifts = [rng.normal(0, 0.6, len(turn.completion_ids)) for turn in episode.turns]
            turns = []
            for turn, shift in zip(episode.turns, shifts, strict=True):
                shifted = tuple(np.add(turn.logprobs, shift))
                turns.append(dataclasses.replace(turn, logprobs=shifted))
            episodes.append(dataclasses.replace(episode, turns=tuple(turns)))

            flat = np.concatenate(shifts)
            ratio = np.exp(-flat)
            if level == "sequence":
                ratio = np.full(len(flat), np.exp(-flat.sum()))
            factor = np.minimum(ratio, cap) if stale else np.ones(len(flat))
            ratios.append(ratio)
            terms.append(-advantage * factor)
        shifted_groups.append(dataclasses.replace(group, episodes=tuple(episodes)))

    update = restart(learner_pools, cfg).learn(shifted_groups, media[:2])
    all_ratios = np.concatenate(ratios)
    assert update.loss == pytest.approx(np.concatenate(terms).mean(), abs=1e-5)
    assert update.metrics["importance_mean"] == pytest.approx(all_ratios.mean(), rel=1e-5)
    assert update.metrics["importance_max"] == pytest.approx(all_ratios.max(), rel=1e-5)
    above = (all_ratios > (cap or 2.0)).mean()
    assert update.metrics["importance_above_cap"] == pytest.approx(above)
    assert 0 < above < 1


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_over_several_steps(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, loss: Any
) -> None:
    """The ratio leaves 1 at the second step. On policy all losses have the same gradient."""
    groups, media, _ = learner_batch
    cfg = config(policy_folder, ranks=2, row_tokens=200, optimizer_steps=3, lr=3e-3)
    cfg.grpo.loss = loss
    update = restart(learner_pools, cfg).learn(groups, media)
    assert update.metrics["skipped_steps"] == 0.0
    assert update.metrics["clip_fraction"] < 1

    one_step = config(policy_folder, ranks=2, row_tokens=200)
    one_step.grpo.loss = loss
    norm = restart(learner_pools, one_step).learn(groups, media).grad_norm
    plain = config(policy_folder, ranks=2, row_tokens=200)
    plain_norm = restart(learner_pools, plain).learn(groups, media).grad_norm
    assert norm == pytest.approx(plain_norm, rel=1e-5)
