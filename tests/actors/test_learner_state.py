"""State of real learner ranks: LoRA's base and adapters, the reference policy, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer

from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from core import grpo
from models.policy.pixels import Pixels
from tests.actors.conftest import Batch
from tests.actors.learners import config, distance, restart, weights
from tests.models.tiny_qwen import banned_ids, build, reference

Pools = dict[int, LearnerPool]
# Numbers of ranks and ZeRO stages.
PLACES = (
    (1, 1),
    (2, 1),
    (2, 2),
    (2, 3),
)


def load_model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def parameters(actor: LearnerActor) -> tuple[dict[str, torch.Tensor], set[str]]:
    """In a rank with whole parameters: return all of them, and the names of the trained ones."""
    values: dict[str, torch.Tensor] = {}
    trained: set[str] = set()
    for name, parameter in actor.trainer.engine.module.vlm.named_parameters():
        values[name] = parameter.detach().clone()
        if parameter.requires_grad:
            trained.add(name)
    return values, trained


def parameters_of_ranks(pool: LearnerPool) -> list[tuple[dict[str, torch.Tensor], set[str]]]:
    return ray.get([rank.actor.__ray_call__.remote(parameters) for rank in pool.ranks])


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [
        (1, 0),
        (1, 1),
        (2, 1),
    ],
)
def test_lora_moves_only_the_adapters_and_publishes_them_merged(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, ranks: int, stage: int
) -> None:
    groups, media, _ = learner_batch
    base = load_model(policy_folder).state_dict()
    cfg = config(
        policy_folder,
        ranks,
        stage,
        lora_rank=4,
        lora_alpha=8.0,
        lr=1e-2,
        gradient_checkpointing=True,
    )
    # Two ranks also publish by way of the object store: a full version, then a delta.
    if ranks == 2:
        cfg.cluster.weight_path = "delta"
    pool = restart(learner_pools, cfg)
    # A new adapter changes nothing, and the names are those of the base.
    assert distance(weights(pool), base) == 0.0

    before = parameters_of_ranks(pool)
    assert pool.learn(groups, media).grad_norm > 0
    after = parameters_of_ranks(pool)
    published = weights(pool)
    assert (pool.stored is not None and len(pool.stored.deltas) == 1) == (ranks == 2)
    for (old, trained), (new, _) in zip(before, after, strict=True):
        assert len(trained) == 2 * 7 * 2
        assert all(".lora_" in name for name in trained)
        moved = {name for name in new if not torch.equal(new[name], old[name])}
        assert moved == trained

        for name, value in published.items():
            is_adapted = name.replace(".weight", ".lora_B.default.weight") in trained
            assert torch.equal(value, base[name]) != is_adapted
            if is_adapted:
                a = new[name.replace(".weight", ".lora_A.default.weight")].double()
                b = new[name.replace(".weight", ".lora_B.default.weight")].double()
                merged = base[name].double() + 8.0 / 4 * b @ a
                torch.testing.assert_close(value.double(), merged, rtol=0, atol=1e-7)

    first, _ = after[0]
    for other, _ in after[1:]:
        for name in first:
            assert torch.equal(first[name], other[name])


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 1), (2, 3)])
def test_an_adapter_alone_is_published(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch, ranks: int, stage: int
) -> None:
    groups, media, _ = learner_batch
    settings: dict[str, Any] = {
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "lora_targets": ["q_proj", "v_proj"],
        "lr": 1e-2,
    }
    merged_cfg = config(policy_folder, ranks, stage, **settings)
    pool = restart(learner_pools, merged_cfg)
    pool.learn(groups, media)
    merged = weights(pool)

    pool = restart(
        learner_pools, config(policy_folder, ranks, stage, **settings, lora_publish="adapter")
    )
    before = weights(pool)
    pool.learn(groups, media)
    after = weights(pool)

    # Both factors of two layers of both blocks, and nothing else.
    assert len(after) == 2 * 2 * 2
    assert sum(tensor.nbytes for tensor in after.values()) == 4 * 2 * 4 * ((64 + 64) + (64 + 32))
    assert not any(torch.equal(after[name], before[name]) for name in after)
    base = load_model(policy_folder).state_dict()
    for name in [name for name in after if ".lora_A." in name]:
        a = after[name].double()
        b = after[name.replace(".lora_A.", ".lora_B.")].double()
        layer = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
        assert not torch.equal(merged[layer], base[layer])
        expected = base[layer].double() + 8.0 / 4 * b @ a
        torch.testing.assert_close(merged[layer].double(), expected, rtol=0, atol=1e-7)


def test_lora_is_the_same_for_any_ranks_and_zero_stage(
    learner_pools: Pools, policy_folder: Path, learner_batch: Batch
) -> None:
    """Three steps: from the second on the adapters' inner matrices move as well."""
    groups, media, _ = learner_batch
    all_norms = []
    states = []
    for ranks, stage in PLACES:
        cfg = config(policy_folder, ranks, stage, lora_rank=4, lr=1e-3, row_tokens=200)
        pool = restart(learner_pools, cfg)
        all_norms.append([pool.learn(groups, media).grad_norm for _ in range(3)])
        states.append(weights(pool))
    for norms in all_norms[1:]:
        assert norms == pytest.approx(all_norms[0], rel=1e-4)
    for state in states[1:]:
        assert distance(state, states[0]) <= 1e-5


@pytest.mark.parametrize(
    ("ranks", "stage", "settings"),
    [
        (1, 1, {"lora_rank": 4, "gradient_checkpointing": True}),
        (2, 3, {"lora_rank": 4}),
        (2, 1, {"offload_reference": True}),
    ],
)
def test_the_reference_is_the_policy_before_training(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    ranks: int,
    stage: int,
    settings: dict[str, Any],
) -> None:
    """The KL after two steps equals that of plain models, of the folder and as published."""
    groups, media, pixels = learner_batch
    cfg = config(policy_folder, ranks, stage, row_tokens=200, lr=1e-2, **settings)
    cfg.grpo.kl_coef = 0.1
    cfg.grpo.kl_estimator = "k3"
    pool = restart(learner_pools, cfg)
    assert pool.learn(groups, media).metrics["kl"] == pytest.approx(0.0, abs=1e-9)
    pool.learn(groups, media)

    start = load_model(policy_folder)
    now = load_model(policy_folder)
    now.load_state_dict(weights(pool))
    processor = Pixels(policy_folder)
    with torch.no_grad():
        p = reference(now, processor, groups, pixels, 0.9, banned_ids())
        q = reference(start, processor, groups, pixels, 0.9, banned_ids())
    kls: list[float] = []
    for token, (logprob, _) in p.items():
        reference_logprob, _ = q[token]
        kls.append(float(grpo.kl(logprob, reference_logprob, "k3")))
    kl = np.mean(kls)
    assert kl > 1e-3
    assert pool.learn(groups, media).metrics["kl"] == pytest.approx(kl, rel=1e-3)


@pytest.mark.parametrize(
    ("ranks", "stage", "others"),
    [
        (1, 0, [(2, 1)]),
        (1, 1, [(2, 3), (2, 2)]),
        (2, 3, [(1, 0), (2, 1)]),
    ],
)
def test_a_checkpoint_goes_on_exactly(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    tmp_path: Path,
    ranks: int,
    stage: int,
    others: list[tuple[int, int]],
) -> None:
    """With its own ranks and stage bit for bit, with others up to rounding."""
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

    assert distance(load_model(tmp_path / "policy").state_dict(), saved) == 0.0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")) == 207
    assert Pixels(tmp_path / "policy")

    for other_ranks, other_stage in others:
        other = config(policy_folder, other_ranks, other_stage, schedule="linear")
        pool = restart(learner_pools, other)
        # What a pool has learned before leaves no trace.
        pool.learn(groups[:1], media[:1])
        pool.load(tmp_path)
        assert distance(weights(pool), saved) == 0.0
        pool.learn(groups[2:], media[2:])
        assert distance(weights(pool), expected) <= 1e-6

    (tmp_path / "optimizer" / "rank_0.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks the file of a rank"):
        pool.load(tmp_path)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_a_lora_checkpoint_holds_the_adapter_and_goes_on_exactly(
    learner_pools: Pools,
    policy_folder: Path,
    learner_batch: Batch,
    tmp_path: Path,
    ranks: int,
    stage: int,
) -> None:
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

    merged = load_model(tmp_path / "policy")
    assert distance(merged.state_dict(), saved) == 0.0
    adapted = PeftModel.from_pretrained(load_model(policy_folder), str(tmp_path / "adapter"))
    processor = Pixels(policy_folder)
    with torch.no_grad():
        p = reference(merged, processor, groups[:1], pixels, 0.9, banned_ids())
        q = reference(adapted, processor, groups[:1], pixels, 0.9, banned_ids())
    for token, (logprob, _) in p.items():
        adapted_logprob, _ = q[token]
        assert abs(float(logprob - adapted_logprob)) <= 1e-5

    without_lora = restart(learner_pools, config(policy_folder, ranks, stage))
    with pytest.raises(ValueError, match="learner.lora_rank=4, this run has 0"):
        without_lora.load(tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(
    learner_pools: Pools, policy_folder: Path, tmp_path: Path
) -> None:
    build(tmp_path / "policy", layers=1)
    pool = restart(learner_pools, config(policy_folder))
    with pytest.raises(ValueError, match="another architecture.*num_hidden_layers is 1, here 2"):
        pool.load(tmp_path)
