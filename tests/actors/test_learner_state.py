"""What real learner ranks keep: LoRA's base and adapters, the reference policy, checkpoints that go on exactly."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer

from cluster.refs import results
from core import grpo
from models.policy.pixels import Pixels
from tests.actors.learners import config, distance, restart, weights
from tests.models.tiny_qwen import banned_ids, build, reference


def parameters(learner) -> tuple[dict, set]:
    """In a rank that has whole ones: all parameters, and the names of the trained ones."""
    found = dict(learner.trainer.engine.module.vlm.named_parameters())
    return {n: p.detach().clone() for n, p in found.items()}, {
        n for n, p in found.items() if p.requires_grad
    }


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (1, 1), (2, 1)])
def test_lora_moves_only_the_adapters_and_publishes_them_merged(
    learner_pools, policy_folder, learner_batch, ranks, stage
):
    base = AutoModelForImageTextToText.from_pretrained(
        policy_folder, dtype=torch.float32
    ).state_dict()
    cfg = config(
        policy_folder,
        ranks,
        stage,
        lora_rank=4,
        lora_alpha=8.0,
        lr=1e-2,
        gradient_checkpointing=True,
    )
    pool = restart(learner_pools, cfg)
    assert (
        distance(weights(pool), base) == 0.0
    )  # an adapter starts as nothing, and the names are the base's
    before = results([rank.actor.__ray_call__.remote(parameters) for rank in pool.ranks])
    assert pool.learn(*learner_batch[:2]).grad_norm > 0
    after = results([rank.actor.__ray_call__.remote(parameters) for rank in pool.ranks])
    published = weights(pool)
    for (old, trained), (new, _) in zip(before, after, strict=True):
        assert len(trained) == 2 * 7 * 2
        assert all(".lora_" in name for name in trained)
        assert {n for n in new if not torch.equal(new[n], old[n])} == trained
        for name, value in published.items():
            adapted = name.replace(".weight", ".lora_B.default.weight") in trained
            assert torch.equal(value, base[name]) != adapted
            if adapted:
                a, b = (
                    new[name.replace(".weight", f".lora_{x}.default.weight")].double() for x in "AB"
                )
                torch.testing.assert_close(
                    value.double(), base[name].double() + 8.0 / 4 * b @ a, rtol=0, atol=1e-7
                )
    assert len(after) == 1 or all(torch.equal(after[0][0][n], after[1][0][n]) for n in after[0][0])


def test_lora_is_the_same_for_any_ranks_and_zero_stage(learner_pools, policy_folder, learner_batch):
    """Three steps: from the second on the adapters' inner matrices move as well."""
    found = []
    for ranks, stage in [(1, 1), (2, 1), (2, 2), (2, 3)]:
        pool = restart(
            learner_pools, config(policy_folder, ranks, stage, lora_rank=4, lr=1e-3, row_tokens=200)
        )
        norms = [pool.learn(*learner_batch[:2]).grad_norm for _ in range(3)]
        found.append((norms, weights(pool)))
    for norms, state in found[1:]:
        assert norms == pytest.approx(found[0][0], rel=1e-4)
        assert distance(state, found[0][1]) <= 1e-5


@pytest.mark.parametrize(
    ("ranks", "stage", "settings"),
    [
        (1, 1, {"lora_rank": 4, "gradient_checkpointing": True}),
        (2, 3, {"lora_rank": 4}),
        (2, 1, {"offload_reference": True}),
    ],
)
def test_the_reference_is_what_training_started_from(
    learner_pools, policy_folder, learner_batch, ranks, stage, settings
):
    """KL after two steps against plain models: the folder's, and one with the weights that were published."""
    groups, media, pixels = learner_batch
    cfg = config(policy_folder, ranks, stage, row_tokens=200, lr=1e-2, **settings)
    cfg.grpo.kl_coef = 0.1
    cfg.grpo.kl_estimator = "k3"
    pool = restart(learner_pools, cfg)
    assert pool.learn(groups, media).metrics["kl"] == pytest.approx(0.0, abs=1e-9)
    pool.learn(groups, media)
    start = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    now = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    now.load_state_dict(weights(pool))
    with torch.no_grad():
        p, q = (
            reference(model, Pixels(policy_folder), groups, pixels, 0.9, banned_ids())
            for model in (now, start)
        )
    kl = np.mean([float(grpo.kl(p[token][0], q[token][0], "k3")) for token in p])
    assert kl > 1e-3
    assert pool.learn(groups, media).metrics["kl"] == pytest.approx(kl, rel=1e-3)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_a_checkpoint_goes_on_exactly(
    learner_pools, policy_folder, learner_batch, tmp_path, ranks, stage
):
    groups, media, _ = learner_batch
    cfg = config(policy_folder, ranks, stage, schedule="linear")
    pool = restart(learner_pools, cfg)
    pool.learn(groups[:3], media[:3])
    pool.save(tmp_path)
    saved = weights(pool)
    straight = pool.learn(groups[2:], media[2:])
    expected = weights(pool)
    pool = restart(learner_pools, cfg)
    pool.load(tmp_path)
    resumed = pool.learn(groups[2:], media[2:])
    assert resumed.metrics["lr"] == straight.metrics["lr"] == pytest.approx(0.9e-3)
    assert distance(weights(pool), expected) == 0.0
    assert distance(expected, saved) > 0.0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert distance(dict(model.state_dict()), saved) == 0.0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")) == 207
    assert Pixels(tmp_path / "policy")
    facts = json.loads((tmp_path / "learner.json").read_text())
    (tmp_path / "learner.json").write_text(json.dumps(facts | {"ranks": 3}))
    with pytest.raises(ValueError, match="learner.world_size=3"):
        pool.load(tmp_path)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_a_lora_checkpoint_holds_the_adapter_and_goes_on_exactly(
    learner_pools, policy_folder, learner_batch, tmp_path, ranks, stage
):
    groups, media, pixels = learner_batch
    cfg = config(policy_folder, ranks, stage, lora_rank=4, lr=1e-2)
    pool = restart(learner_pools, cfg)
    for _ in range(2):
        pool.learn(groups, media)
    pool.save(tmp_path)
    saved = weights(pool)
    pool.learn(groups, media)
    expected = weights(pool)
    pool = restart(learner_pools, cfg)
    pool.load(tmp_path)
    assert distance(weights(pool), saved) == 0.0
    pool.learn(groups, media)
    assert distance(weights(pool), expected) == 0.0
    assert distance(expected, saved) > 0.0
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert distance(dict(merged.state_dict()), saved) == 0.0
    base = AutoModelForImageTextToText.from_pretrained(policy_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    with torch.no_grad():
        p, q = (
            reference(m, Pixels(policy_folder), groups[:1], pixels, 0.9, banned_ids())
            for m in (merged, adapted)
        )
    assert max(abs(float(p[token][0] - q[token][0])) for token in p) <= 1e-5
    with pytest.raises(ValueError, match="learner.lora_rank=4, this run has 0"):
        restart(learner_pools, config(policy_folder, ranks, stage)).load(tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(learner_pools, policy_folder, tmp_path):
    build(tmp_path / "policy", layers=1)
    with pytest.raises(ValueError, match="another architecture.*num_hidden_layers is 1, here 2"):
        restart(learner_pools, config(policy_folder)).load(tmp_path)
