"""Real learner ranks (Ray, DeepSpeed, gloo) against a plain PyTorch step with one row for each episode."""

import dataclasses
import json
import math

import numpy as np
import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer

from actors.learner_pool import LearnerPool, places
from actors.objective import join, means, must_fail
from actors.optimizer import deepspeed_config, learning_rate
from cluster.refs import results
from configs.schema import Config
from core import grpo
from core.flat import checksum, unflatten
from core.losses import LOSSES
from models.policy import Pixels
from ray_jobs.record import checkpoint
from ray_jobs.train import stop_on_bad_steps
from tests.models.tiny_qwen import banned_ids, build, random_group, reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("learner") / "policy")


def config(folder, ranks=1, stage=1, row_tokens=4096, **learner) -> Config:
    cfg = Config()
    cfg.policy.path = str(folder)
    cfg.cluster.use_gpu = "no"
    cfg.rollout.temperature = 0.9
    cfg.learner.world_size, cfg.learner.zero_stage, cfg.learner.row_tokens = ranks, stage, row_tokens
    cfg.learner.lr, cfg.learner.grad_clip = 1e-3, 0.25
    for name, value in learner.items():
        assert hasattr(cfg.learner, name)
        setattr(cfg.learner, name, value)
    return cfg


@pytest.fixture(scope="module")
def pools(folder, ray_env):
    """One pool of one rank and one of two, as processes; `restart` gives them a fresh policy and configuration."""
    found = {n: LearnerPool(config(folder, n), total_updates=10) for n in (1, 2)}
    yield found
    for pool in found.values():
        pool.close()


def restart(pools, cfg) -> LearnerPool:
    pool = pools[cfg.learner.world_size]
    pool.cfg = cfg
    results([rank.start.remote(cfg, place, 10) for rank, place in zip(pool.ranks, pool.places, strict=True)])
    return pool


@pytest.fixture(scope="module")
def data(folder):
    """Five groups whose engine log-probs are those of the policy, and their pixels."""
    pairs = [random_group(seed) for seed in range(5)]
    media = {k: v for _, table in pairs for k, v in table.items()}
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found = reference(model, Pixels(folder), [g for g, _ in pairs], media, 0.9, banned_ids())
    groups, number = [], 0
    for group, _ in pairs:
        episodes = []
        for episode in group.episodes:
            turns, k = [], 0
            for turn in episode.turns:
                values = tuple(float(found[number, k + j][0]) for j in range(len(turn.completion_ids)))
                turns.append(dataclasses.replace(turn, logprobs=values))
                k += len(values)
            episodes.append(dataclasses.replace(episode, turns=tuple(turns)))
            number += 1
        groups.append(dataclasses.replace(group, episodes=tuple(episodes)))
    return groups, [ray.put(table) if ray.is_initialized() else table for _, table in pairs], media


def weights(pool) -> dict[str, torch.Tensor]:
    version = pool.publish(3)
    assert version.version == 3
    flat = torch.from_numpy(np.array(ray.get(version.payload)))
    assert checksum(flat.numpy()) == version.checksum
    return {n: t.clone() for n, t in unflatten(flat, version.names, version.dtypes, version.shapes)}


def distance(a, b) -> float:
    assert a.keys() == b.keys()
    total = sum(float(t.double().pow(2).sum()) for t in b.values())
    return (sum(float((a[n] - b[n]).double().pow(2).sum()) for n in b) / total) ** 0.5


@pytest.fixture(scope="module")
def plain_step(folder, data):
    """(loss, gradient norm, weights) of one AdamW step in plain PyTorch: the formulas, one row for each episode."""
    groups, _, media = data
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    found = reference(model, Pixels(folder), groups, media, 0.9, banned_ids())
    episodes = [(e, a) for g in groups for e, a in zip(g.episodes, g.advantages_G, strict=True)]
    terms = [torch.exp(p - p.detach()) * episodes[number][1] for (number, _), (p, _) in found.items()]
    loss = -torch.stack(terms).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01).step()
    return loss.item(), norm.item(), {n: t.detach().clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    "ranks, stage, row_tokens",
    [(1, 0, 4096), (1, 1, 150), (1, 3, 200), (2, 0, 4096), (2, 1, 4096), (2, 2, 150), (2, 3, 150)],
)
def test_a_step_is_the_same_for_any_packing_ranks_and_zero_stage(
    pools, folder, data, plain_step, ranks, stage, row_tokens
):
    pool = restart(pools, config(folder, ranks, stage, row_tokens))
    before = weights(pool)
    update = pool.learn(*data[:2])
    loss, norm, expected = plain_step
    assert abs(loss) > 0.01 and norm > 0.25  # neither the comparison nor the clipping is vacuous
    assert update.loss == pytest.approx(loss, rel=1e-6)
    assert update.grad_norm == pytest.approx(norm, rel=1e-6)
    after = weights(pool)
    assert distance(after, expected) <= 1e-6 and distance(after, before) > 1e-3
    # AdamW's first step is lr * g / (|g| + eps): where g is rounding noise its sign may differ, so compare loosely
    moved = {n: after[n] - before[n] for n in after}
    assert distance(moved, {n: expected[n] - before[n] for n in after}) <= 1e-3
    assert update.metrics["logprob_gap_max"] <= 1e-5 and update.metrics["logprob_gap_mean"] <= 1e-6
    assert update.metrics["trained_tokens"] == sum(sum(grpo.trained_tokens(g)) for g in data[0])
    assert (update.metrics["rows"] > ranks) == (row_tokens < 4096)
    assert update.metrics["ratio_min"] == update.metrics["ratio_max"] == 1.0  # on policy, exactly


def test_a_tied_head_is_published(pools, folder):
    published = weights(restart(pools, config(folder)))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert model.config.get_text_config().tie_word_embeddings and "lm_head.weight" in published
    assert distance(published, dict(model.state_dict())) == 0.0


def streamed(learner) -> tuple[tuple, tuple, tuple, list]:
    """In a rank: what a GPU backend would announce, and what it would then send."""
    from actors import optimizer

    tensors = [(name, tensor.cpu()) for name, tensor in optimizer.whole_tensors(learner.engine)]
    return *optimizer.describe(learner.engine), tensors


@pytest.mark.parametrize("ranks, stage", [(1, 1), (2, 3)])
def test_gpu_backends_announce_and_send_what_the_object_store_holds(pools, folder, ranks, stage):
    pool = restart(pools, config(folder, ranks, stage))
    expected = pool.publish(1)
    for names, dtypes, shapes, tensors in results([rank.__ray_call__.remote(streamed) for rank in pool.ranks]):
        assert (names, dtypes, shapes) == (expected.names, expected.dtypes, expected.shapes)
        assert [name for name, _ in tensors] == list(names) and "lm_head.weight" in names
        assert distance(dict(tensors), weights(pool)) == 0.0


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_gpu_backends_are_refused_on_cpu(pools, folder, backend):
    cfg = config(folder)
    cfg.cluster.weight_backend = backend
    with pytest.raises(ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"):
        restart(pools, cfg)


def test_zero_variance_groups_are_skipped_but_count(pools, folder, data):
    groups, media, _ = data
    flat = dataclasses.replace(groups[4], advantages_G=(0.0,) * 4)
    pool = restart(pools, config(folder))
    with_flat = pool.learn([*groups[:4], flat], media)
    pool = restart(pools, config(folder))
    without = pool.learn(groups[:4], media[:4])
    counts = [sum(grpo.trained_tokens(g)) for g in groups]
    assert with_flat.metrics["skipped_groups"] == 1.0 and without.metrics["skipped_groups"] == 0.0
    assert with_flat.metrics["trained_tokens"] == without.metrics["trained_tokens"] == sum(counts[:4])
    assert with_flat.grad_norm == pytest.approx(without.grad_norm * sum(counts[:4]) / sum(counts), rel=1e-6)
    before = weights(pool)
    nothing = pool.learn([flat], media[4:])
    assert nothing.metrics["skipped_groups"] == 1.0 and nothing.metrics["logprob_gap_mean"] == 0.0
    assert distance(weights(pool), before) == 0.0


@pytest.mark.parametrize(
    "ranks, stage, dtype, offload",
    [(1, 0, "float32", False), (1, 1, "float32", False), (2, 3, "float32", False), (2, 2, "float32", True),
     (1, 1, "bfloat16", False), (2, 3, "bfloat16", True)],
)  # fmt: skip
def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_alone(
    pools, folder, data, ranks, stage, dtype, offload
):
    groups, media, _ = data
    cfg = config(folder, ranks, stage, offload_optimizer=offload)
    cfg.policy.dtype = dtype
    pool = restart(pools, cfg)
    before = weights(pool)
    broken = dataclasses.replace(groups[0], advantages_G=(math.inf, 0.0, 0.0, 0.0))
    update = pool.learn([broken, groups[1]], media[:2])
    assert update.metrics["skipped_steps"] == 1.0 and math.isnan(update.grad_norm)
    assert distance(weights(pool), before) == 0.0
    update = pool.learn(groups, media)
    assert update.metrics["skipped_steps"] == 0.0 and all(t.isfinite().all() for t in weights(pool).values())


@pytest.mark.parametrize("ranks, stage", [(1, 1), (2, 2), (2, 3)])
def test_an_offloaded_optimizer_makes_the_same_step(pools, folder, data, ranks, stage):
    found = []
    for offload in (False, True):
        pool = restart(pools, config(folder, ranks, stage, row_tokens=200, offload_optimizer=offload))
        norms = [pool.learn(*data[:2]).grad_norm for _ in range(2)]
        found.append((norms, weights(pool)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert distance(found[1][1], found[0][1]) <= 1e-4  # DeepSpeed's CPU AdamW rounds in another order


@pytest.mark.parametrize("ranks, stage", [(1, 1), (2, 2)])
def test_bfloat16_steps_gather_in_fp32_master_weights(pools, folder, data, ranks, stage):
    """Steps of 2e-5 are lost beside bfloat16 weights of 0.02 to 0.1; over forty of them the masters must have moved."""
    moved = []
    for dtype in ("float32", "bfloat16"):
        cfg = config(folder, ranks, stage, lr=2e-5, grad_clip=0.0)
        cfg.policy.dtype = dtype
        pool = restart(pools, cfg)
        before = weights(pool)
        for _ in range(40):
            pool.learn(data[0][:2], data[1][:2])
        after = weights(pool)
        assert {str(t.dtype) for t in after.values()} == {f"torch.{dtype}"}
        moved.append({name: after[name].float() - before[name].float() for name in after})
    assert distance(moved[1], moved[0]) < 0.2  # 0.09; AdamW on bfloat16 weights alone: 0.86


def test_bad_steps_in_a_row_stop_the_run_and_name_the_checkpoint(pools, folder, data, tmp_path):
    """An infinite advantage on one rank of two; a loss that is not finite though its gradient is; then a good batch."""
    groups, media, _ = data
    cfg = config(folder, ranks=2, max_bad_steps=2)
    pool = restart(pools, cfg)
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
    with pytest.raises(RuntimeError, match=rf"2 optimizer steps in a row .*learner.max_bad_steps=2.*{good}"):
        stop_on_bad_steps(cfg, last, tmp_path)
    with pytest.raises(RuntimeError, match="no checkpoint was written"):
        stop_on_bad_steps(cfg, last, tmp_path / "none")
    assert distance(weights(pool), before) == 0.0


def test_a_loss_that_is_not_finite_has_no_finite_gradient():
    """A `where` or a bound can take the gradient of what went wrong away: then only the loss would tell."""
    logprob = torch.tensor([-1.0, -2.0], requires_grad=True)
    lost = torch.where(torch.tensor([True, False]), torch.inf, logprob).sum()
    (before,) = torch.autograd.grad(lost, logprob, retain_graph=True)
    (after,) = torch.autograd.grad(must_fail(lost, logprob), logprob)
    assert before.isfinite().all() and after.isnan().all()
    assert must_fail(logprob.sum(), logprob).item() == -3.0


def test_imitation_lowers_the_loss(pools, folder, data):
    groups, media, _ = data
    demonstrations = [dataclasses.replace(g, rewards=(), advantages_G=()) for g in groups]
    pool = restart(pools, config(folder, ranks=2, stage=2, row_tokens=200, lr=1e-2, grad_clip=1.0))
    losses = [pool.imitate(demonstrations, media).loss for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]


def test_kl_and_several_optimizer_steps(pools, folder, data):
    cfg = config(folder, row_tokens=200, optimizer_steps=3, lr=3e-3)
    cfg.grpo.kl_coef = 0.1
    cfg.rollout.max_staleness = 1
    metrics = restart(pools, cfg).learn(*data[:2]).metrics
    assert metrics["kl"] > 1e-4  # of the third step; at the first the policy is the reference
    assert metrics["ratio_min"] < 0.95 and metrics["ratio_max"] > 1.05 and metrics["clip_fraction"] > 0
    assert metrics["importance_mean"] == pytest.approx(1.0, abs=1e-4)  # the samples are the policy's own
    assert metrics["importance_max"] == pytest.approx(1.0, abs=1e-4) and metrics["importance_above_cap"] == 0.0
    assert metrics["logprob_gap_max"] <= 1e-5


@pytest.mark.parametrize("level, cap, stale", [("token", 1.2, 1), ("sequence", 1.2, 1), ("sequence", 0.0, 0)])
def test_importance_weights_are_reported_always_and_used_off_policy(pools, folder, data, level, cap, stale):
    """Engine log-probs that are off by known amounts: the loss is the formula's, on the learner's own log-probs."""
    groups, media, _ = data
    cfg = config(folder, row_tokens=200)
    cfg.grpo.importance, cfg.grpo.importance_cap, cfg.rollout.max_staleness = level, cap, stale
    rng, changed, ratios, terms = np.random.default_rng(0), [], [], []
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
    update = restart(pools, cfg).learn(changed, media[:2])
    every = np.concatenate(ratios)
    assert update.loss == pytest.approx(np.concatenate(terms).mean(), abs=1e-5)
    assert update.metrics["importance_mean"] == pytest.approx(every.mean(), rel=1e-5)
    assert update.metrics["importance_max"] == pytest.approx(every.max(), rel=1e-5)
    above = (every > (cap or 2.0)).mean()
    assert update.metrics["importance_above_cap"] == pytest.approx(above) and 0 < above < 1


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_over_several_steps(pools, folder, data, loss):
    """Off-ratio on the second and third step. On policy all have one gradient, so the first norm is the same."""
    cfg = config(folder, ranks=2, row_tokens=200, optimizer_steps=3, lr=3e-3)
    cfg.grpo.loss = loss
    update = restart(pools, cfg).learn(*data[:2])
    assert update.metrics["skipped_steps"] == 0.0 and update.metrics["clip_fraction"] < 1
    one_step = config(folder, ranks=2, row_tokens=200)
    one_step.grpo.loss = loss
    plain = config(folder, ranks=2, row_tokens=200)
    first = restart(pools, one_step).learn(*data[:2])
    assert first.grad_norm == pytest.approx(restart(pools, plain).learn(*data[:2]).grad_norm, rel=1e-5)


@pytest.mark.parametrize("ranks, stage", [(1, 1), (2, 3)])
def test_a_checkpoint_goes_on_exactly(pools, folder, data, tmp_path, ranks, stage):
    groups, media, _ = data
    cfg = config(folder, ranks, stage, schedule="linear")
    pool = restart(pools, cfg)
    pool.learn(groups[:3], media[:3])
    pool.save(tmp_path)
    saved = weights(pool)
    straight = pool.learn(groups[2:], media[2:])
    expected = weights(pool)
    pool = restart(pools, cfg)
    pool.load(tmp_path)
    resumed = pool.learn(groups[2:], media[2:])
    assert resumed.metrics["lr"] == straight.metrics["lr"] == pytest.approx(0.9e-3)
    assert distance(weights(pool), expected) == 0.0 and distance(expected, saved) > 0.0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert distance(dict(model.state_dict()), saved) == 0.0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")) == 207 and Pixels(tmp_path / "policy")
    facts = json.loads((tmp_path / "learner.json").read_text())
    (tmp_path / "learner.json").write_text(json.dumps(facts | {"ranks": 3}))
    with pytest.raises(ValueError, match="learner.world_size=3"):
        pool.load(tmp_path)


def parameters(learner) -> tuple[dict, set]:
    """In a rank that has whole ones: all parameters, and the names of the trained ones."""
    found = dict(learner.engine.module.vlm.named_parameters())
    return {n: p.detach().clone() for n, p in found.items()}, {n for n, p in found.items() if p.requires_grad}


@pytest.mark.parametrize("ranks, stage", [(1, 0), (1, 1), (2, 1)])
def test_lora_moves_only_the_adapters_and_publishes_them_merged(pools, folder, data, ranks, stage):
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    cfg = config(folder, ranks, stage, lora_rank=4, lora_alpha=8.0, lr=1e-2, gradient_checkpointing=True)
    pool = restart(pools, cfg)
    assert distance(weights(pool), base) == 0.0  # an adapter starts as nothing, and the names are the base's
    before = results([rank.__ray_call__.remote(parameters) for rank in pool.ranks])
    assert pool.learn(*data[:2]).grad_norm > 0
    after = results([rank.__ray_call__.remote(parameters) for rank in pool.ranks])
    published = weights(pool)
    for (old, trained), (new, _) in zip(before, after, strict=True):
        assert len(trained) == 2 * 7 * 2 and all(".lora_" in name for name in trained)
        assert {n for n in new if not torch.equal(new[n], old[n])} == trained
        for name, value in published.items():
            adapted = name.replace(".weight", ".lora_B.default.weight") in trained
            assert torch.equal(value, base[name]) != adapted
            if adapted:
                a, b = (new[name.replace(".weight", f".lora_{x}.default.weight")].double() for x in "AB")
                torch.testing.assert_close(value.double(), base[name].double() + 8.0 / 4 * b @ a, rtol=0, atol=1e-7)
    assert len(after) == 1 or all(torch.equal(after[0][0][n], after[1][0][n]) for n in after[0][0])


def test_lora_is_the_same_for_any_ranks_and_zero_stage(pools, folder, data):
    """Three steps: from the second on the adapters' inner matrices move as well."""
    found = []
    for ranks, stage in [(1, 1), (2, 1), (2, 2), (2, 3)]:
        pool = restart(pools, config(folder, ranks, stage, lora_rank=4, lr=1e-3, row_tokens=200))
        norms = [pool.learn(*data[:2]).grad_norm for _ in range(3)]
        found.append((norms, weights(pool)))
    for norms, state in found[1:]:
        assert norms == pytest.approx(found[0][0], rel=1e-4)
        assert distance(state, found[0][1]) <= 1e-5


@pytest.mark.parametrize(
    "ranks, stage, settings",
    [
        (1, 1, {"lora_rank": 4, "gradient_checkpointing": True}),
        (2, 3, {"lora_rank": 4}),
        (2, 1, {"offload_reference": True}),
    ],
)
def test_the_reference_is_what_training_started_from(pools, folder, data, ranks, stage, settings):
    """KL after two steps against plain models: the folder's, and one with the weights that were published."""
    groups, media, pixels = data
    cfg = config(folder, ranks, stage, row_tokens=200, lr=1e-2, **settings)
    cfg.grpo.kl_coef, cfg.grpo.kl_estimator = 0.1, "k3"
    pool = restart(pools, cfg)
    assert pool.learn(groups, media).metrics["kl"] == pytest.approx(0.0, abs=1e-9)
    pool.learn(groups, media)
    start = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    now = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    now.load_state_dict(weights(pool))
    with torch.no_grad():
        p, q = (reference(model, Pixels(folder), groups, pixels, 0.9, banned_ids()) for model in (now, start))
    kl = np.mean([float(grpo.kl(p[token][0], q[token][0], "k3")) for token in p])
    assert kl > 1e-3 and pool.learn(groups, media).metrics["kl"] == pytest.approx(kl, rel=1e-3)


@pytest.mark.parametrize("ranks, stage", [(1, 1), (2, 3)])
def test_a_lora_checkpoint_holds_the_adapter_and_goes_on_exactly(pools, folder, data, tmp_path, ranks, stage):
    groups, media, pixels = data
    cfg = config(folder, ranks, stage, lora_rank=4, lr=1e-2)
    pool = restart(pools, cfg)
    for _ in range(2):
        pool.learn(groups, media)
    pool.save(tmp_path)
    saved = weights(pool)
    pool.learn(groups, media)
    expected = weights(pool)
    pool = restart(pools, cfg)
    pool.load(tmp_path)
    assert distance(weights(pool), saved) == 0.0
    pool.learn(groups, media)
    assert distance(weights(pool), expected) == 0.0 and distance(expected, saved) > 0.0
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert distance(dict(merged.state_dict()), saved) == 0.0
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    with torch.no_grad():
        p, q = (reference(m, Pixels(folder), groups[:1], pixels, 0.9, banned_ids()) for m in (merged, adapted))
    assert max(abs(float(p[token][0] - q[token][0])) for token in p) <= 1e-5
    with pytest.raises(ValueError, match="learner.lora_rank=4, this run has 0"):
        restart(pools, config(folder, ranks, stage)).load(tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(pools, folder, tmp_path):
    build(tmp_path / "policy", layers=1)
    with pytest.raises(ValueError, match="another architecture.*num_hidden_layers is 1, here 2"):
        restart(pools, config(folder)).load(tmp_path)


def test_learning_rate_schedules():
    cfg = config("x", lr=1.0, warmup_steps=2, schedule="linear")
    assert [learning_rate(i, 6, cfg.learner) for i in range(7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert learning_rate(50, 6, cfg.learner) == 0.0
    cosine = dataclasses.replace(cfg.learner, schedule="cosine", warmup_steps=0)
    assert [learning_rate(i, 4, cosine) for i in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])
    constant = dataclasses.replace(cfg.learner, schedule="constant", warmup_steps=0)
    assert learning_rate(99, 4, constant) == 1.0
    with pytest.raises(ValueError, match="constant, linear, cosine"):
        learning_rate(0, 4, dataclasses.replace(cfg.learner, schedule="poly"))


def test_clipping_is_never_left_to_deepspeeds_default():
    assert deepspeed_config(config("x", grad_clip=0.0))["gradient_clipping"] == 0.0
    with pytest.raises(ValueError, match="zero_stage=4"):
        deepspeed_config(config("x", stage=4))


def test_ranks_are_numbered_on_each_node():
    found = places([("a", 1), ("b", 2), ("a", 3)], "cpu")
    assert [(p.rank, p.local_rank, p.local_ranks, p.master) for p in found] == [
        (0, 0, 2, ("a", 1)), (1, 0, 1, ("a", 1)), (2, 1, 2, ("a", 1)),
    ]  # fmt: skip


def test_reports_of_ranks_combine():
    a = {"tokens_sum": 1.0, "gap_sum": 0.5, "gap_max": 0.5, "loss_sum": 1.0}
    b = {"tokens_sum": 3.0, "gap_sum": 0.1, "gap_max": 0.1, "loss_sum": 2.0}
    dummy = {"tokens_sum": 0.0, "loss_sum": 0.0}
    joined = join([a, b, dummy])
    assert joined["loss_sum"] == 3.0
    assert math.isnan(join([{"loss_sum": math.inf}, {"loss_sum": -math.inf}])["loss_sum"])  # fsum would refuse
    found = means(joined, joined)
    assert found["logprob_gap_mean"] == pytest.approx(0.15) and found["logprob_gap_max"] == 0.5
