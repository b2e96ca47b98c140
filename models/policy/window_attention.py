"""Attention of the vision tower: all windows and images of a forward in a few calls.

A token sees its own window, or in some layers of Qwen2.5-VL and in all of Qwen3-VL its own image.
transformers calls PyTorch's attention once for each of them. Two exact forms of the same attention
need fewer calls: `rayvos_flash_windows` one for each length of window, on any device, and
`rayvos_flash_varlen` one in all, on a GPU in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from models.policy.tree_attention import FLEX

# transformers tells the bounds of the windows only to an attention with "flash" in its name.
WINDOWS = "rayvos_flash_windows"
VARLEN = "rayvos_flash_varlen"

HALF = (torch.bfloat16, torch.float16)


def windows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each window; windows of equal length run in one batch.

    Args:
        module: the layer.
        query: (1, heads, T, width), as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: None; a window has no mask.
        cu_seq_lens_q: first token of each window, and T.
        scaling: factor of the logits.
        kwargs: not used. The towers have no dropout.

    Returns:
        (1, T, heads, width), and no weights.
    """
    lengths, counts = cu_seq_lens_q.diff().unique(return_counts=True)
    tensors = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    if len(lengths) == 1:
        return _attend_equal(tensors, lengths.item(), scaling)[None], None

    order_T = _by_length(cu_seq_lens_q)
    # Not by `[]`, which adds up gradients one by one.
    tensors = [tensor_THd.index_select(0, order_T) for tensor_THd in tensors]
    sections = (lengths * counts).tolist()
    outputs = []
    of_lengths = zip(*(tensor_THd.split(sections) for tensor_THd in tensors), strict=True)
    for length, parts in zip(lengths.tolist(), of_lengths, strict=True):
        outputs.append(_attend_equal(parts, length, scaling))
    return torch.cat(outputs).index_select(0, order_T.argsort())[None], None


def _attend_equal(tensors: Sequence[Tensor], length: int, scaling: float | None) -> Tensor:
    """Attend within windows of one length: query, key and value (T, heads, width) to the same."""
    batched = [tensor_THd.unflatten(0, (-1, length)).transpose(1, 2) for tensor_THd in tensors]
    query, key, value = batched
    attended = F.scaled_dot_product_attention(query, key, value, scale=scaling)
    return attended.transpose(1, 2).flatten(0, 1)


def _by_length(bounds: Tensor) -> Tensor:
    """Return the tokens in the order of their windows' lengths, (T,)."""
    lengths_W = bounds.diff()
    order_W = lengths_W.argsort(stable=True)
    sorted_W = lengths_W[order_W]
    # A token is the first one of its window, and its place in it.
    first_T = bounds[:-1][order_W].repeat_interleave(sorted_W)
    new_first_T = (sorted_W.cumsum(0) - sorted_W).repeat_interleave(sorted_W)
    place_T = torch.arange(len(first_T), device=bounds.device) - new_first_T
    return first_T + place_T


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as `windows_attention` in one call of PyTorch's flash kernel.

    Args:
        module: the layer.
        query: (1, heads, T, width), as `key` and `value`; half precision on a GPU.
        key: see `query`.
        value: see `query`.
        attention_mask: None.
        cu_seq_lens_q: first token of each window, and T.
        max_length_q: tokens of the longest window.
        scaling: factor of the logits.
        kwargs: not used.
    """
    query_THd, key_THd, value_THd = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    bounds = cu_seq_lens_q.to(torch.int32)
    attended_THd = varlen_attn(
        query_THd,
        key_THd,
        value_THd,
        bounds,
        bounds,
        max_length_q,
        max_length_q,
        scale=scaling,
    )
    assert isinstance(attended_THd, Tensor)
    return attended_THd[None], None


def attend(vlm: Any, tree_attention: str) -> None:
    """Set the attention of a vision-language model: that of its language, and what goes with it."""
    tower = choose(tree_attention, vlm.dtype)
    vlm.set_attn_implementation({"text_config": tree_attention, "vision_config": tower})


def choose(tree_attention: str, dtype: torch.dtype) -> str:
    """Return the registered name of the tower's attention.

    Args:
        tree_attention: attention of the language model. With flex attention kernels of the GPU are
            wanted.
        dtype: of the policy.
    """
    if tree_attention == FLEX and dtype in HALF:
        return VARLEN
    return WINDOWS


AttentionInterface.register(WINDOWS, windows_attention)
AttentionInterface.register(VARLEN, varlen_attention)
