"""The vision tower's attention in few calls: outputs and gradients of transformers' own way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3

from benchmarks.vision_tower import Calls
from models.policy import window_attention
from models.policy.tree_attention import FLEX, SPLIT
from models.policy.window_attention import VARLEN, WINDOWS

# Width and number of heads: those of the official towers are 80 and 72 wide.
NARROW = {"intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}

# (height, width) in patches. Windows are 8 x 8 patches; in the mixed images some are cut.
SAME = ((16, 16), (16, 16))
MIXED = ((16, 16), (20, 24), (10, 6), (2, 2), (20, 24))


def tower_2_5() -> tuple[nn.Module, int]:
    """A tower with windows, and images in every third layer; and the size of a patch."""
    config = qwen2_5.Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=160, fullatt_block_indexes=[2], window_size=112, **NARROW
    )
    return qwen2_5.Qwen2_5_VisionTransformerPretrainedModel(config), 3 * 2 * 14**2


def tower_3() -> tuple[nn.Module, int]:
    """A tower that sees whole images."""
    config = qwen3.Qwen3VLVisionConfig(
        depth=2, hidden_size=144, deepstack_visual_indexes=[0], **NARROW
    )
    return qwen3.Qwen3VLVisionModel(config), 3 * 2 * 16**2


TOWERS = {"qwen2_5": tower_2_5, "qwen3": tower_3}


def learned(
    tower: nn.Module, attention: str, patches: Tensor, grid_U3: Tensor
) -> tuple[list[Tensor], int]:
    """Return features and the gradients of a mixed-sign loss, and the calls of attention."""
    tower.config._attn_implementation = attention
    tower.zero_grad()
    patches = patches.clone().requires_grad_()
    with Calls() as calls:
        features = tower(patches, grid_U3, return_dict=True).pooler_output
    signs = torch.linspace(-1, 1, features.numel()).view_as(features)
    (features * signs).sum().backward()
    found = [features.detach(), patches.grad]
    found += [weight.grad.clone() for weight in tower.parameters() if weight.grad is not None]
    return found, calls.count


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def seeded(make: Callable[[], tuple[nn.Module, int]]) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("sizes", [SAME, MIXED], ids=["same", "mixed"])
def test_few_calls_give_the_same(name: str, sizes: tuple[tuple[int, int], ...]) -> None:
    tower, patch = seeded(TOWERS[name])
    grid_U3 = torch.tensor([[1, height, width] for height, width in sizes])
    patches = torch.randn(int(grid_U3.prod(1).sum()), patch)
    expected, calls_before = learned(tower, "sdpa", patches, grid_U3)
    found, calls = learned(tower, WINDOWS, patches, grid_U3)
    assert len(expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        assert apart(ours, theirs) <= 1e-6
    layers_of_images = 1 if name == "qwen2_5" else 2
    lengths_of_images = len(set(sizes))
    # Whole windows alone, of 64 patches; or also those of 32, 48, 12 and 4.
    lengths_of_windows = 0 if name == "qwen3" else {SAME: 1, MIXED: 5}[sizes]
    assert calls == layers_of_images * lengths_of_images + 2 * lengths_of_windows
    assert calls < calls_before


def as_documented(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scale: float | None
) -> Tensor:
    """The attention that PyTorch documents for `varlen_attn`: (T, heads, width)."""
    outputs = []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (each[None, start:stop].transpose(1, 2) for each in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("name", TOWERS)
def test_one_call_is_asked_as_pytorch_documents_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself runs on a GPU alone: `test_policy_on_gpu.py`."""
    asked: list[dict[str, Any]] = []

    def varlen(*args: Any, **kwargs: Any) -> Tensor:
        call = inspect.signature(varlen_attn).bind(*args, **kwargs).arguments
        asked.append(call)
        assert call["cu_seq_q"].dtype == torch.int32
        assert call["max_q"] == int(call["cu_seq_q"].diff().max())
        for tensor in ("query", "key", "value"):
            assert call[tensor].stride(-1) == 1
        return as_documented(
            call["query"], call["key"], call["value"], call["cu_seq_k"], call["scale"]
        )

    monkeypatch.setattr(window_attention, "varlen_attn", varlen)
    tower, patch = seeded(TOWERS[name])
    grid_U3 = torch.tensor([[1, height, width] for height, width in MIXED])
    patches = torch.randn(int(grid_U3.prod(1).sum()), patch)
    expected, _ = learned(tower, "sdpa", patches, grid_U3)
    found, _ = learned(tower, VARLEN, patches, grid_U3)
    assert len(asked) == len(tower.blocks)
    for ours, theirs in zip(found, expected, strict=True):
        assert apart(ours, theirs) <= 1e-6


def test_the_gpus_kernel_is_taken_in_half_precision_alone() -> None:
    assert window_attention.choose(FLEX, torch.bfloat16) == VARLEN
    assert window_attention.choose(FLEX, torch.float32) == WINDOWS
    assert window_attention.choose(SPLIT, torch.bfloat16) == WINDOWS
