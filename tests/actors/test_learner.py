"""Real learner ranks (Ray, DeepSpeed, gloo) against a plain PyTorch step with one row for each episode."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from cluster.refs import results
from core import grpo
from core.losses import LOSSES
from models.policy.pixels import Pixels
from ray_jobs.record import checkpoint
from ray_jobs.train import stop_on_bad_steps
from tests.actors.learners import config, distance, restart, weights
from tests.models.tiny_qwen import banned_ids, reference


@pytest.fixture(scope="module")
def plain_step(policy_folder, learner_batch):
    """(loss, gradient norm, weights) of one AdamW step in plain PyTorch: the formulas, one row for each episode."""
    groups, _, media = learner_batch
    model = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    found = reference(model, Pixels(policy_folder), groups, media, 0.9, banned_ids())
    episodes = [(e, a) for g in groups for e, a in zip(g.episodes, g.advantages_G, strict=True)]
    terms = [
        torch.exp(p - p.detach()) * episodes[number][1] for (number, _), (p, _) in found.items()
    ]
    loss = -torch.stack(terms).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01).step()
    return loss.item(), norm.item(), {n: t.detach().clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("ranks", "stage", "row_tokens"),
    [(1, 0, 4096), (1, 1, 150), (1, 3, 200), (2, 0, 4096), (2, 1, 4096), (2, 2, 150), (2, 3, 150)],
)
def test_a_step_is_the_same_for_any_packing_ranks_and_zero_stage(
    learner_pools, policy_folder, learner_batch, plain_step, ranks, stage, row_tokens
):
    pool = restart(learner_pools, config(policy_folder, ranks, stage, row_tokens))
    before = weights(pool)
    update = pool.learn(*learner_batch[:2])
    loss, norm, expected = plain_step
    assert abs(loss) > 0.01
    assert norm > 0.25
    assert update.loss == pytest.approx(loss, rel=1e-6)
    assert update.grad_norm == pytest.approx(norm, rel=1e-6)
    after = weights(pool)
    assert distance(after, expected) <= 1e-6
    assert distance(after, before) > 1e-3
    # AdamW's first step is lr * g / (|g| + eps): where g is rounding noise its sign may differ, so compare loosely
    moved = {n: after[n] - before[n] for n in after}
    assert distance(moved, {n: expected[n] - before[n] for n in after}) <= 1e-3
    assert update.metrics["logprob_gap_max"] <= 1e-5
    assert update.metrics["logprob_gap_mean"] <= 1e-6
    assert update.metrics["trained_tokens"] == sum(
        sum(grpo.trained_tokens(g)) for g in learner_batch[0]
    )
    assert (update.metrics["rows"] > ranks) == (row_tokens < 4096)
    assert update.metrics["ratio_min"] == update.metrics["ratio_max"] == 1.0  # on policy, exactly


def test_a_tied_head_is_published(learner_pools, policy_folder):
    published = weights(restart(learner_pools, config(policy_folder)))
    model = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    assert model.config.get_text_config().tie_word_embeddings
    assert "lm_head.weight" in published
    assert distance(published, dict(model.state_dict())) == 0.0


def streamed(learner) -> tuple[tuple, tuple, tuple, list]:
    """In a rank: what a GPU backend would announce, and what it would then send."""
    from actors import whole_weights

    engine = learner.trainer.engine
    tensors = [(name, tensor.cpu()) for name, tensor in whole_weights.whole_tensors(engine)]
    return *whole_weights.describe(engine), tensors


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_gpu_backends_announce_and_send_what_the_object_store_holds(
    learner_pools, policy_folder, ranks, stage
):
    pool = restart(learner_pools, config(policy_folder, ranks, stage))
    expected = pool.publish(1)
    for names, dtypes, shapes, tensors in results(
        [rank.actor.__ray_call__.remote(streamed) for rank in pool.ranks]
    ):
        assert (names, dtypes, shapes) == (expected.names, expected.dtypes, expected.shapes)
        assert [name for name, _ in tensors] == list(names)
        assert "lm_head.weight" in names
        assert distance(dict(tensors), weights(pool)) == 0.0


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_gpu_backends_are_refused_on_cpu(learner_pools, policy_folder, backend):
    cfg = config(policy_folder)
    cfg.cluster.weight_backend = backend
    with pytest.raises(
        ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"
    ):
        restart(learner_pools, cfg)


def test_zero_variance_groups_are_skipped_but_count(learner_pools, policy_folder, learner_batch):
    groups, media, _ = learner_batch
    flat = dataclasses.replace(groups[4], advantages_G=(0.0,) * 4)
    pool = restart(learner_pools, config(policy_folder))
    with_flat = pool.learn([*groups[:4], flat], media)
    pool = restart(learner_pools, config(policy_folder))
    without = pool.learn(groups[:4], media[:4])
    counts = [sum(grpo.trained_tokens(g)) for g in groups]
    assert with_flat.metrics["skipped_groups"] == 1.0
    assert without.metrics["skipped_groups"] == 0.0
    assert (
        with_flat.metrics["trained_tokens"] == without.metrics["trained_tokens"] == sum(counts[:4])
    )
    assert with_flat.grad_norm == pytest.approx(
        without.grad_norm * sum(counts[:4]) / sum(counts), rel=1e-6
    )
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
    learner_pools, policy_folder, learner_batch, ranks, stage, dtype, offload
):
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
    assert all(t.isfinite().all() for t in weights(pool).values())


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 2), (2, 3)])
def test_an_offloaded_optimizer_makes_the_same_step(
    learner_pools, policy_folder, learner_batch, ranks, stage
):
    found = []
    for offload in (False, True):
        pool = restart(
            learner_pools,
            config(policy_folder, ranks, stage, row_tokens=200, offload_optimizer=offload),
        )
        norms = [pool.learn(*learner_batch[:2]).grad_norm for _ in range(2)]
        found.append((norms, weights(pool)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (
        distance(found[1][1], found[0][1]) <= 1e-4
    )  # DeepSpeed's CPU AdamW rounds in another order


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 2)])
def test_bfloat16_steps_gather_in_fp32_master_weights(
    learner_pools, policy_folder, learner_batch, ranks, stage
):
    """Steps of 2e-5 are lost beside bfloat16 weights of 0.02 to 0.1; over forty of them the masters must have moved."""
    moved = []
    for dtype in ("float32", "bfloat16"):
        cfg = config(policy_folder, ranks, stage, lr=2e-5, grad_clip=0.0)
        cfg.policy.dtype = dtype
        pool = restart(learner_pools, cfg)
        before = weights(pool)
        for _ in range(40):
            pool.learn(learner_batch[0][:2], learner_batch[1][:2])
        after = weights(pool)
        assert {str(t.dtype) for t in after.values()} == {f"torch.{dtype}"}
        moved.append({name: after[name].float() - before[name].float() for name in after})
    assert distance(moved[1], moved[0]) < 0.2  # 0.09; AdamW on bfloat16 weights alone: 0.86


def test_bad_steps_in_a_row_stop_the_run_and_name_the_checkpoint(
    learner_pools, policy_folder, learner_batch, tmp_path
):
    """An infinite advantage on one rank of two; a loss that is not finite though its gradient is; then a good batch."""
    groups, media, _ = learner_batch
    cfg = config(policy_folder, ranks=2, max_bad_steps=2)
    pool = restart(learner_pools, cfg)
    good = checkpoint.save(tmp_path, 7, pool.save, {})
    before = weights(pool)
    broken = dataclasses.replace(groups[0], advantages_G=(math.inf, 0.0, 0.0, 0.0))
    first = pool.learn([broken, groups[1]], media[:2]).metrics
    assert first["bad_steps"] == first["skipped_steps"] == 1.0
    stop_on_bad_steps(cfg, first, tmp_path)  # not yet
    assert pool.learn([broken], media[:1]).metrics["bad_steps"] == 2.0
    assert pool.learn(groups, media).metrics["bad_steps"] == 0.0  # what counts is the row of them
    pool.load(good)
    assert distance(weights(pool), before) == 0.0
    for _ in range(2):
        last = pool.learn([broken, groups[1]], media[:2]).metrics
    with pytest.raises(
        RuntimeError, match=rf"2 optimizer steps in a row .*learner.max_bad_steps=2.*{good}"
    ):
        stop_on_bad_steps(cfg, last, tmp_path)
    with pytest.raises(RuntimeError, match="no checkpoint was written"):
        stop_on_bad_steps(cfg, last, tmp_path / "none")
    assert distance(weights(pool), before) == 0.0


def test_imitation_lowers_the_loss(learner_pools, policy_folder, learner_batch):
    groups, media, _ = learner_batch
    demonstrations = [dataclasses.replace(g, rewards=(), advantages_G=()) for g in groups]
    pool = restart(
        learner_pools,
        config(policy_folder, ranks=2, stage=2, row_tokens=200, lr=1e-2, grad_clip=1.0),
    )
    losses = [pool.imitate(demonstrations, media).loss for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]


def test_kl_and_several_optimizer_steps(learner_pools, policy_folder, learner_batch):
    cfg = config(policy_folder, row_tokens=200, optimizer_steps=3, lr=3e-3)
    cfg.grpo.kl_coef = 0.1
    cfg.rollout.max_staleness = 1
    metrics = restart(learner_pools, cfg).learn(*learner_batch[:2]).metrics
    assert metrics["kl"] > 1e-4  # of the third step; at the first the policy is the reference
    assert metrics["ratio_min"] < 0.95
    assert metrics["ratio_max"] > 1.05
    assert metrics["clip_fraction"] > 0
    assert metrics["importance_mean"] == pytest.approx(
        1.0, abs=1e-4
    )  # the samples are the policy's own
    assert metrics["importance_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["importance_above_cap"] == 0.0
    assert metrics["logprob_gap_max"] <= 1e-5


@pytest.mark.parametrize(
    ("level", "cap", "stale"), [("token", 1.2, 1), ("sequence", 1.2, 1), ("sequence", 0.0, 0)]
)
def test_importance_weights_are_reported_always_and_used_off_policy(
    learner_pools, policy_folder, learner_batch, level, cap, stale
):
    """Engine log-probs that are off by known amounts: the loss is the formula's, on the learner's own log-probs."""
    groups, media, _ = learner_batch
    cfg = config(policy_folder, row_tokens=200)
    cfg.grpo.importance = level
    cfg.grpo.importance_cap = cap
    cfg.rollout.max_staleness = stale
    rng = np.random.default_rng(0)
    changed = []
    ratios = []
    terms = []
    for group in groups[:2]:
        episodes = []
        for episode, advantage in zip(group.episodes, group.advantages_G, strict=True):
            shifts = [rng.normal(0, 0.6, len(t.completion_ids)) for t in episode.turns]
            turns = [
                dataclasses.replace(t, logprobs=tuple(np.add(t.logprobs, s)))
                for t, s in zip(episode.turns, shifts, strict=True)
            ]
            flat = np.concatenate(shifts)
            ratio = np.exp(-flat) if level == "token" else np.full(len(flat), np.exp(-flat.sum()))
            ratios.append(ratio)
            terms.append(-advantage * (np.minimum(ratio, cap) if stale else np.ones(len(flat))))
            episodes.append(dataclasses.replace(episode, turns=tuple(turns)))
        changed.append(dataclasses.replace(group, episodes=tuple(episodes)))
    update = restart(learner_pools, cfg).learn(changed, media[:2])
    every = np.concatenate(ratios)
    assert update.loss == pytest.approx(np.concatenate(terms).mean(), abs=1e-5)
    assert update.metrics["importance_mean"] == pytest.approx(every.mean(), rel=1e-5)
    assert update.metrics["importance_max"] == pytest.approx(every.max(), rel=1e-5)
    above = (every > (cap or 2.0)).mean()
    assert update.metrics["importance_above_cap"] == pytest.approx(above)
    assert 0 < above < 1


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_over_several_steps(learner_pools, policy_folder, learner_batch, loss):
    """Off-ratio on the second and third step. On policy all have one gradient, so the first norm is the same."""
    cfg = config(policy_folder, ranks=2, row_tokens=200, optimizer_steps=3, lr=3e-3)
    cfg.grpo.loss = loss
    update = restart(learner_pools, cfg).learn(*learner_batch[:2])
    assert update.metrics["skipped_steps"] == 0.0
    assert update.metrics["clip_fraction"] < 1
    one_step = config(policy_folder, ranks=2, row_tokens=200)
    one_step.grpo.loss = loss
    plain = config(policy_folder, ranks=2, row_tokens=200)
    first = restart(learner_pools, one_step).learn(*learner_batch[:2])
    assert first.grad_norm == pytest.approx(
        restart(learner_pools, plain).learn(*learner_batch[:2]).grad_norm, rel=1e-5
    )
