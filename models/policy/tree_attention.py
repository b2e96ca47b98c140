"""Attention over prefix-tree rows, registered with transformers: branches see the prompt and themselves only.

Two forms of the same thing. `rayvos_split`: one exact attention call for each segment, no L x L object, any device.
`rayvos_flex`: flex_attention with a block mask, for GPUs. The vision tower keeps PyTorch's own attention.
This file knows rows as segments and ids; nothing about losses or processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

from core.batch import Segments

SPLIT = "rayvos_split"
FLEX = "rayvos_flex"
FLEX_BLOCK = 128  # a flex row is padded to a multiple of this


def split_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a row (1, heads, T, width) by `tree`; without one, transformers' ordinary SDPA."""
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    gqa = query.shape[1] != key.shape[1]
    outputs = []
    for p0, p1, branches in tree:
        prompt_k = key[:, :, p0:p1]
        prompt_v = value[:, :, p0:p1]
        outputs.append(
            F.scaled_dot_product_attention(
                query[:, :, p0:p1],
                prompt_k,
                prompt_v,
                is_causal=True,
                scale=scaling,
                enable_gqa=gqa,
            )
        )
        for b0, b1 in branches:
            k = torch.cat([prompt_k, key[:, :, b0:b1]], 2)
            v = torch.cat([prompt_v, value[:, :, b0:b1]], 2)
            mask = torch.ones(b1 - b0, k.shape[2], dtype=torch.bool, device=k.device).tril_(p1 - p0)
            outputs.append(
                F.scaled_dot_product_attention(
                    query[:, :, b0:b1], k, v, attn_mask=mask, scale=scaling, enable_gqa=gqa
                )
            )
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def block_mask(group_T: Tensor, branch_T: Tensor) -> BlockMask:
    """The tree as a flex_attention mask; T a multiple of FLEX_BLOCK, group -1 marks padding, which sees padding."""

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (
            (q >= k)
            & (group_T[q] == group_T[k])
            & ((branch_T[k] == 0) | (branch_T[q] == branch_T[k]))
        )

    length = len(group_T)
    return create_block_mask(visible, 1, None, length, length, device=str(group_T.device))


def choose(attention: str, device: torch.device | str) -> str:
    """`policy.attention` to the name of a registered attention."""
    if attention == "auto":
        return FLEX if torch.device(device).type == "cuda" else SPLIT
    if attention not in ("split", "flex"):
        raise ValueError(f"policy.attention={attention!r}: one of auto, split, flex")
    return SPLIT if attention == "split" else FLEX


AttentionInterface.register(SPLIT, split_attention)
AttentionInterface.register(FLEX, flex_attention_forward)
# a custom attention without its mask function makes transformers drop the padding mask of every other call
AttentionMaskInterface.register(SPLIT, sdpa_mask)
AttentionMaskInterface.register(FLEX, flex_attention_mask)
