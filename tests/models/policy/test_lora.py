"""Adapters on both model families: what is trained, what is merged, and the base underneath."""

import pytest
import torch

from core import batch, grpo
from models.policy import lora
from models.policy.pixels import Pixels
from models.policy.policy import Policy
from models.policy.reference import Reference
from tests.models.tiny_qwen import ALLOWED, ID, build, build_qwen3, random_group

SETTINGS = lora.Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))


@pytest.fixture(scope="module", params=["qwen2.5", "qwen3"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen")
    return build_qwen3(path) if request.param == "qwen3" else build(path, tie=False)


@pytest.fixture(scope="module")
def shown(folder):
    """A row and its patches."""
    group, media = random_group(0)
    credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
    row = batch.build_row(
        batch.trees(group, 0, credit, [1.0] * 4, 0), batch.ImageLayout(ID["<|image_pad|>"], 28)
    )
    return row, Pixels(folder)([media[d] for d in row.images])


def adapted(folder, **settings) -> Policy:
    """With adapters that are not at their start."""
    policy = Policy(folder, allowed_ids=ALLOWED, adapter=SETTINGS, **settings)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in lora.layers(policy.vlm).values():
            layer.lora_A["default"].weight.normal_(0, 0.2, generator=rng)
            layer.lora_B["default"].weight.normal_(0, 0.2, generator=rng)
    return policy


def test_merged_weights_give_the_adapted_log_probs(folder, shown):
    row, patches = shown
    policy = adapted(folder)
    plain = Policy(folder, allowed_ids=ALLOWED)
    with torch.no_grad():
        base = plain(row, *patches)[0]
        expected = policy(row, *patches)[0]
        merged = {name: weight.merged() for name, weight in lora.weights(policy.vlm).items()}
        plain.vlm.load_state_dict(merged)  # strict: the names are the base's
        found = plain(row, *patches)[0]
    assert (expected - base).abs().max() > 0.1
    assert (found - expected).abs().max() <= 1e-5
    assert len(lora.layers(policy.vlm)) == 3 * policy.vlm.config.text_config.num_hidden_layers
    assert lora.rank(policy.vlm) == 4
    assert lora.rank(plain.vlm) == 0


def test_the_reference_of_an_adapted_policy_is_the_base(folder, shown):
    """One model answers for both; afterwards its adapters work and are trained as before."""
    row, patches = shown
    policy = adapted(folder)
    before = policy(row, *patches)[0].detach()
    (found,) = Reference(policy).logprobs([row], [patches], 1.0)
    (frozen,) = Reference(Policy(folder, allowed_ids=ALLOWED), offload=True).logprobs(
        [row], [patches], 1.0
    )
    assert torch.equal(found, frozen)
    assert not found.requires_grad
    after = policy(row, *patches)[0]
    assert torch.equal(after, before)
    after.sum().backward()
    gradients = {n: p.grad for n, p in policy.vlm.named_parameters()}
    assert {n for n, g in gradients.items() if g is not None} == {
        n for n in gradients if ".lora_" in n
    }
    assert all(g.abs().max() > 0 for g in gradients.values() if g is not None)


def test_checkpointing_leaves_the_adapters_gradients_alone(folder, shown):
    row, patches = shown
    found = []
    for checkpointing in (False, True):
        policy = adapted(folder, gradient_checkpointing=checkpointing)
        policy(row, *patches)[0].square().sum().backward()
        found.append(
            torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", [("q_proj", "qkv"), (), ("lm_head",)])
def test_unknown_targets_are_named(folder, targets):
    """`qkv` is of the vision tower, which keeps its weights, and the head has no adapter."""
    with pytest.raises(ValueError, match="learner.lora_targets.*down_proj.*q_proj"):
        Policy(folder, allowed_ids=ALLOWED, adapter=lora.Lora(4, 8.0, targets))
